"""Findings from this worker's calls: failing attempts, slow responses, calls that do not end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from gwcore.call import Attempt, Call
from gwcore.errors import BudgetExceeded, GatewayError
from gwcore.outcomes import ending
from gwcore_observability.alerts.findings import Finding
from gwcore_observability.alerts.settings import AlertsConfig
from gwcore_observability.names import plain

SLICES = 10
MOST = 500
"""Names counted separately; limited because clients may choose them."""
OTHER = "other"


REFUSED = "x-gwcore-budget-"
"""Prefix of the headers of a refusal that describe the budget."""
SPENT_FOR = 600.0
"""Seconds for which a budget that refused a call counts as exhausted."""
STALE = 3600.0
"""Seconds without an attempt after which a deployment's state is unknown; after twice as long it is forgotten."""


@dataclass(slots=True, frozen=True)
class Fails:
    """Consecutive failures; kind (a row of :mod:`gwcore.outcomes`), monotonic time and call of the last one.

    ``stale``: the last one is so long ago that the current state is unknown.
    """

    count: int = 0
    reason: str = ""
    at: float = 0.0
    call: str = ""
    stale: bool = False


@dataclass(slots=True, frozen=True)
class Refusals:
    """Calls refused by a budget. ``said``: owner and amounts from the last refusal's headers, without their prefix."""

    said: Mapping[str, str]
    count: int
    at: float
    call: str


@dataclass(slots=True)
class _Count:
    turn: int = 0
    last: tuple[str, str] = ("", "")
    all: list[int] = field(default_factory=lambda: [0] * SLICES)
    hit: list[int] = field(default_factory=lambda: [0] * SLICES)


class Window:
    """Counts by name over a sliding window of ``SLICES`` slices; old counts expire one slice at a time."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slice = seconds / SLICES
        self._clock = clock
        self._counts: dict[str, _Count] = {}

    def add(self, name: str, *, hit: bool, why: str = "", call: str = "") -> None:
        """Count one event; ``hit`` if it is one searched for, then with its reason and call."""
        if name not in self._counts and len(self._counts) >= MOST:
            name = OTHER
        count = self._counts.setdefault(name, _Count())
        self._turn(count)
        count.all[count.turn % SLICES] += 1
        count.hit[count.turn % SLICES] += hit
        if hit:
            count.last = (why, call)

    def sums(self) -> Iterator[tuple[str, int, int, tuple[str, str]]]:
        """Name, all, hits, and reason and call of the last hit. Names without events in the window are removed."""
        for name, count in list(self._counts.items()):
            self._turn(count)
            if not any(count.all):
                self._counts.pop(name, None)
            else:
                yield name, sum(count.all), sum(count.hit), count.last

    def _turn(self, count: _Count) -> None:
        turn = int(self._clock() / self._slice)
        for stale in range(max(count.turn, turn - SLICES) + 1, turn + 1):
            count.all[stale % SLICES] = count.hit[stale % SLICES] = 0
        count.turn = turn


def budget_subject(scope: str, id_: str, window: str) -> str:
    """The subject of alerts about a budget."""
    return f"budget/{scope}/{id_}/{window}"


@lru_cache(maxsize=4096)
def deployment(upstream: str, model: str, key: int) -> str:
    """A deployment's name in alerts: ``upstream/model``, with the number of the credential if there are several."""
    return plain(f"{upstream}/{model}" + (f" key {key}" if key else ""))


def _of(attempt: Attempt) -> str:
    upstream = attempt.target.upstream
    return deployment(upstream.name, attempt.target.model, upstream.key)


class Seen:
    """Fed by taps, with some dictionary operations per call; evaluated once per check.

    It survives a reload that does not change its settings: a problem does not end because a file was read.

    Attributes:
        fails: consecutive failures by deployment. ``refused``: refusals by budget.
    """

    def __init__(self, config: AlertsConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._errors = Window(config.errors.window if config.errors else 60.0, clock)
        self._slow = Window(config.slow.window if config.slow else 60.0, clock)
        self._flying: dict[str, Call] = {}
        self.fails: dict[str, Fails] = {}
        self.refused: dict[str, Refusals] = {}
        self._clock = clock
        self._progress: dict[str, tuple[int, float]] = {}  # long-running calls: bytes sent, and when they last grew

    # ── taps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def started(self, call: Call) -> None:
        """A call has started."""
        self._flying[call.id] = call

    def ended(self, call: Call, error: GatewayError | None = None) -> None:
        """A call has ended."""
        self._flying.pop(call.id, None)
        if isinstance(error, BudgetExceeded):
            self._refusal(error, call.id)
        for attempt in call.attempts:
            self._attempt(attempt)
        served, slow = call.served, self._config.slow
        if slow is not None and served is not None:
            first = served.first_byte_at if call.stream else None
            took = (first if first is not None else time.perf_counter()) - call.started
            self._slow.add(_of(served), hit=took >= slow.after, call=call.id)

    def _refusal(self, error: BudgetExceeded, call: str) -> None:
        said = {name.removeprefix(REFUSED): value for name, value in error.headers if name.startswith(REFUSED)}
        if "scope" in said:
            subject = budget_subject(said["scope"], said.get("id", ""), said.get("window", ""))
            before = self.refused.get(subject)
            if before is not None or len(self.refused) < MOST:
                self.refused[subject] = Refusals(said, before.count + 1 if before else 1, self._clock(), call)

    def _attempt(self, attempt: Attempt) -> None:
        name, error = _of(attempt), attempt.error
        if error is None:
            if attempt.status is None:
                return  # the client disconnected before the response
            self.fails.pop(name, None)
            self._errors.add(name, hit=False)
            return
        end = ending(error)
        if end.health == "none":
            return  # the client's fault, or ours, not the upstream's
        self._errors.add(name, hit=True, why=end.kind, call=attempt.call.id)
        # an overloaded deployment is not down
        if end.health != "cooldown" and (name in self.fails or len(self.fails) < MOST):
            count = self.fails.get(name, Fails()).count + 1
            self.fails[name] = Fails(count, end.kind, self._clock(), attempt.call.id)

    # ── findings ─────────────────────────────────────────────────────────────────────────────────────────────────

    def findings(self) -> Iterator[Finding]:
        """Findings from calls, except upstreams that are down, see :mod:`gwcore_observability.alerts.shown`."""
        yield from self._failing()
        yield from self._slowly()
        yield from self._hanging()

    def _failing(self) -> Iterator[Finding]:
        config = self._config.errors
        if config is None:
            return
        for name, total, bad, (why, last) in self._errors.sums():
            if total >= config.least and bad >= config.rate * total:
                yield Finding(
                    "errors",
                    f"errors/{name}",
                    f"{name}: {bad * 100 // total} % of attempts fail",
                    {"failed": bad, "attempts": total, "window_s": config.window, "last": why, "last_id": last},
                    over=f"{name}: no more than {config.rate:.0%} of attempts fail",
                )

    def _slowly(self) -> Iterator[Finding]:
        config = self._config.slow
        if config is None:
            return
        for name, total, slow, (_, last) in self._slow.sums():
            if slow >= config.least:
                yield Finding(
                    "slow",
                    f"slow/{name}",
                    f"{name}: {slow} of {total} answers took {config.after:g} s or more",
                    {
                        "slow": slow,
                        "answers": total,
                        "after_s": config.after,
                        "window_s": config.window,
                        "last_id": last,
                    },
                    over=f"{name}: no more slow answers",
                )

    def _hanging(self) -> Iterator[Finding]:
        config = self._config.hanging
        if config is None:
            return
        oldest: dict[str, tuple[float, str]] = {}
        counts: dict[str, int] = {}
        now = time.perf_counter()
        moving: dict[str, tuple[int, float]] = {}
        for call in self._flying.values():  # oldest first
            if now - call.started < config.after:
                break
            if self._progresses(call, now, config.after, moving):
                continue
            name = _of(call.served) if call.served is not None else "no upstream yet"
            oldest.setdefault(name, (now - call.started, call.id))
            counts[name] = counts.get(name, 0) + 1
        self._progress = moving
        for name, (age, id_) in oldest.items():
            yield Finding(
                "hanging",
                f"hanging/{name}",
                f"{name}: {counts[name]} requests in flight, and nothing for {config.after:g} s",
                {"requests": counts[name], "oldest_s": round(age), "oldest_id": id_, "after_s": config.after},
                over=f"{name}: no request hangs any more",
            )

    def _progresses(self, call: Call, now: float, after: float, moving: dict[str, tuple[int, float]]) -> bool:
        """Whether content was sent in the last ``after`` seconds: a long stream does not hang. Ignores keep-alives."""
        sent = call.reply.sent
        if not sent:
            return False
        before = self._progress.get(call.id)
        if before is None or (before[0] != sent and call.reply.last != call.dialect.keepalive):
            before = (sent, now)
        moving[call.id] = before
        return now - before[1] < after

    def exhausted(self) -> dict[str, Refusals]:
        """:attr:`refused`, without entries older than ``SPENT_FOR``."""
        now = self._clock()
        for subject in [subject for subject, one in self.refused.items() if now - one.at > SPENT_FOR]:
            del self.refused[subject]
        return self.refused

    def failing(self) -> dict[str, Fails]:
        """:attr:`fails`, with old entries marked stale, and then removed; see ``STALE``."""
        now = self._clock()
        for name, one in list(self.fails.items()):
            if now - one.at > 2 * STALE:
                del self.fails[name]
            elif now - one.at > STALE:
                self.fails[name] = replace(one, stale=True)
        return self.fails

    async def aclose(self) -> None:
        """For :meth:`gwcore.plugin.Setup.once`."""

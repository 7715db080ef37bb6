"""One call's way through its candidates: which comes next, and when there is none left."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from random import Random
from typing import Protocol

from gwcore.call import Call
from gwcore.errors import BadRequest, GatewayError, Overloaded, RateLimited
from gwcore.outcomes import Ending
from gwcore_fallback.config import FallbackConfig
from gwcore_fallback.continuation import Script
from gwcore_fallback.health import Breaker
from gwcore_fallback.plan import TOKENS, UNSENT, Deployment, Fleet, Group, Planner, tagged
from gwcore_fallback.retry import Budget, backoff
from gwcore_fallback.routes import Route, Routes

_HEDGES = 10  # second attempts that may be saved up
_EARLY = 0.002  # a timer may fire almost this much early (uvloop counts whole milliseconds)
_SHORTEST = 1.0  # no attempt starts with less time left, in seconds, or a tenth of the deadline


class Probes(Protocol):
    """Who may probe a half-open breaker: one in the whole fleet."""

    async def claim(self, breaker: Breaker) -> bool:
        """Whether the caller may."""
        ...


class Chooser:
    """What all journeys of a router share."""

    def __init__(
        self,
        *,
        config: FallbackConfig,
        routes: Routes,
        fleet: Fleet,
        planner: Planner,
        probes: Probes,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self.config = config
        self.routes = routes
        self.fleet = fleet
        self.planner = planner
        self.probes = probes
        self.clock = clock
        self.random = random
        self._budgets: dict[str, Budget] = {}
        self._hedges: dict[float, Budget] = {}

    def budget(self, upstream: str) -> Budget:
        """The retry budget of an upstream."""
        found = self._budgets.get(upstream)
        if found is None:
            retry = self.config.retry
            found = self._budgets[upstream] = Budget(retry.budget, retry.budget_reserve)
        return found

    def hedges(self, share: float) -> Budget:
        """How many second attempts there may be: of all calls with that share."""
        found = self._hedges.get(share)
        if found is None:
            found = self._hedges[share] = Budget(share, _HEDGES, empty=True)
        return found


class Journey:
    """Made once per call.

    Attributes:
        error: what the client is told if nothing more can be tried.
        current: the deployment whose attempt ended last.
        tried: deployment → how often, what the last time meant, and the monotonic second before which it is no use.
        seen: every deployment that was considered.
        script: of a stream that may be continued.
        panicking: every breaker was open; the one attempt in spite of it is made.
    """

    __slots__ = (
        "_cheaper", "_chooser", "_last", "_left", "_planned", "_queue", "_session", "_stages", "_strict", "_struck", "_tokens", "call", "current",
        "error",
        "panicking", "route", "script", "seen", "tried",
    )  # fmt: skip

    def __init__(self, chooser: Chooser, call: Call, route: Route, session: bytes | None = None) -> None:
        self._chooser = chooser
        self.call = call
        self.route = route
        self.error: GatewayError | None = None
        self.current: Deployment | None = None
        self.panicking = False
        self.script: Script | None = None
        self.tried: dict[Deployment, tuple[int, Ending, float]] = {}
        self.seen: list[Deployment] = []
        self._session = session
        self._tokens = -1
        self._strict = False
        self._struck: set[str] = set()
        self._cheaper: int | None = None
        self._left = chooser.config.retry.attempts
        self._planned = False
        self._last: list[Deployment] | None = []  # those that yield; None once they are asked, too
        self._stages: deque[str] = deque()
        self._queue: deque[Deployment] = deque()
        self._enqueue(route.settings.strategy, chooser.fleet.group(call.model or "", call.targets))

    @property
    def tokens(self) -> int:
        """What the call may use, as estimated."""
        if self._tokens < 0:
            self._tokens = sum(TOKENS.estimate(self.call))
        return self._tokens

    def reserved(self, deployment: Deployment) -> int:
        """What an attempt takes of a limit on tokens until its usage is known; 0 where there is none."""
        return self.tokens if deployment.tokens is not None else 0

    async def next(self) -> tuple[Deployment, Breaker | None]:
        """The next deployment, and the breaker that the attempt is the probe of. Raises the error to end with."""
        chooser = self._chooser
        now = chooser.clock()
        if self.error is not None and (not self._left or self._too_late(now)):
            raise self.error
        while (found := self._fresh(now)) is not None:
            guard = found.breaker if found.breaker.opens else found.credential
            if not guard.opens:
                return found, None
            if await chooser.probes.claim(guard):
                return found, guard
        if not self.tried:
            return self._panic(now), None
        return await self._again(now), None

    def second(self, first: Deployment, share: float) -> Deployment | None:
        """Another that may run beside the first: healthy, within the attempts of the call and the share of hedges."""
        hedges = self._chooser.hedges(share)
        if not self._left or not hedges.left:
            return None
        planned = self._planned
        found = self._fresh(self._chooser.clock())
        self._planned = planned  # what comes after the call's own is for a failure to decide, and there was none
        if found is None or found is first:
            return None
        if found.breaker.opens or found.credential.opens:  # a probe runs beside nothing, but may come next
            self._queue.appendleft(found)
            return None
        hedges.take()
        return found

    def begins(self, deployment: Deployment) -> None:
        """An attempt starts."""
        self._left -= 1
        budget = self._chooser.budget(deployment.target.upstream.name)
        if deployment not in self.tried and deployment.target.upstream.name not in self._struck:
            budget.request()

    def failed(self, deployment: Deployment, error: GatewayError, ending: Ending, pause: float) -> bool:
        """Note a failure; whether to go on. ``pause`` is how long the upstream wants to be left alone."""
        times = self.tried.get(deployment, (0, ending, 0.0))[0] + 1
        self.tried[deployment] = times, ending, self._chooser.clock() + pause
        if self.error is None or ending.kind not in _GIVES_WAY:
            self.error = error
        if ending.kind in UNSENT:
            self._left += 1
        if ending.health == "failure":
            self._struck.add(deployment.target.upstream.name)
        if ending.retry == "no" or self.panicking:
            return False
        if ending.retry == "cheaper":
            cost = self._chooser.planner.cost(deployment, self.call)
            if not self.route.settings.budget_aware or cost is None:
                return False
            self._cheaper = cost if self._cheaper is None else min(cost, self._cheaper)
        elif ending.retry in {"larger", "permissive"}:
            self._queue.clear()
            self._last = self._last and []
            self._plan(ending.retry)
            return bool(self._stages)
        if not self._planned:  # the first failure decides which models come after the call's own
            self._plan("rate_limited" if ending.kind == "rate_limited" else ending.retry)
        return True

    # ── what is left ─────────────────────────────────────────────────────────────────────────────────────────────

    def _plan(self, need: str) -> None:
        self._planned = True
        self._stages = deque(self.route.after[need])

    def _barred(self, one: Deployment, now: float) -> str | None:
        return one.barred(now, self.reserved(one))

    def _fresh(self, now: float) -> Deployment | None:
        """The next candidate that was not tried and is not barred."""
        while True:
            while self._queue:
                one = self._queue.popleft()
                if one in self.tried or self._barred(one, now) is not None:
                    continue
                if self._last is not None and one.breaker.yields > now:
                    self._last.append(one)
                elif self._suits(one):
                    return one
            if not self._planned:  # nothing of its own may be used
                limited = all(one.breaker.yields > now or self._barred(one, now) in _LIMITED for one in self.seen)
                self._plan("rate_limited" if self.seen and limited else "again")
            if self._stages:
                self._stage(self._stages.popleft())
            elif self._last:
                self._queue.extend(self._last)
                self._last = None
            else:
                return None

    def _suits(self, one: Deployment) -> bool:
        if self._cheaper is not None:
            cost = self._chooser.planner.cost(one, self.call)
            if cost is None or cost >= self._cheaper:
                return False
        name = one.target.upstream.name
        return name not in self._struck or self._chooser.budget(name).take()

    def _stage(self, name: str) -> None:
        routes = self._chooser.routes
        self._enqueue(routes.of(name).settings.strategy, self._chooser.fleet.group(name, routes.targets(name)))

    def _enqueue(self, strategy: str, group: Group) -> None:
        chooser, call = self._chooser, self.call
        members = group.members
        if group.tags or self._strict:
            self._strict = self._strict or not group.tags.isdisjoint(call.tags)
            members = tagged(members, call.tags, strict=self._strict)
        self.seen += members
        self._queue.extend(
            chooser.planner.order(strategy, group, members, call=call, now=chooser.clock(), session=self._session)
        )

    def _too_late(self, now: float) -> bool:
        deadline, whole = self.call.deadline, self.route.settings.deadline
        return deadline is not None and deadline - now < min(_SHORTEST, (whole or _SHORTEST) / 10)

    async def _again(self, now: float) -> Deployment:
        """One that was tried, after a wait. Raises the error where there is none, or no time, or the budget is spent."""
        assert self.error is not None
        retry = self._chooser.config.retry
        waits = [
            (max(backoff(times - 1, retry.base, retry.cap, self._chooser.random), usable - now), one)
            for one, (times, ending, usable) in self.tried.items()
            if ending.retry == "again" and times <= retry.per_target and not one.breaker.opens and self._cheaper is None
        ]
        if not waits:
            raise self.error
        wait, chosen = min(waits, key=itemgetter(0))
        deadline = self.call.deadline
        if wait > retry.max_wait or (deadline is not None and now + wait >= deadline):
            raise self.error
        if not self._chooser.budget(chosen.target.upstream.name).take():
            raise self.error
        await asyncio.sleep(wait + _EARLY)
        self.call.waited += wait  # for the upstream's sake
        if self._barred(chosen, self._chooser.clock()) is not None:
            raise self.error
        return chosen

    def _panic(self, now: float) -> Deployment:
        """Nothing may be used. An upstream's failure is a better answer than none of ours; a wait it asked for is kept."""
        if not self.seen:
            raise BadRequest(f"no target of {self.call.model!r} serves calls with these tags")
        ranked = {"open": 0, "probing": 1, "credential": 2}
        # what nothing bars here was not to be had: another replica probes it
        barred = [(one, self._barred(one, now) or "probing") for one in self.seen]
        usable = [(ranked[why], one.breaker.failed_at, one) for one, why in barred if why in ranked]
        soonest = max(min(one.frees_at(now, self.reserved(one)) for one in self.seen) - now, 0.0)
        if not usable:
            raise RateLimited(f"every target of {self.call.model!r} is at its rate limit", retry_after=soonest)
        if not self._chooser.config.panic:
            raise Overloaded(f"no target of {self.call.model!r} is healthy", retry_after=soonest)
        self.panicking = True
        return min(usable, key=itemgetter(0, 1))[2]


# A refusal of ours says less than the upstream's error before it: the client asked for that one's model.
_LIMITED = frozenset({"cooling", "requests", "tokens"})
_GIVES_WAY = frozenset({"unserved", "denied"})

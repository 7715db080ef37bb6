"""One call's path through its candidates: which one is next, and when to give up."""

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

_HEDGES = 10  # limit of unused second attempts that accumulate
_EARLY = 0.002  # seconds; a timer may fire almost this much early (uvloop counts whole milliseconds)
_SHORTEST = 1.0  # no further attempt starts with fewer seconds left, or a tenth of the deadline if that is less


class Probes(Protocol):
    """Grants the probe of a half-open breaker: one at a time in the whole fleet."""

    async def claim(self, breaker: Breaker) -> bool:
        """Whether the caller may probe."""
        ...


class Chooser:
    """State shared by all journeys of a router."""

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
        """Returns the retry budget of an upstream."""
        found = self._budgets.get(upstream)
        if found is None:
            retry = self.config.retry
            found = self._budgets[upstream] = Budget(retry.budget, retry.budget_reserve)
        return found

    def hedges(self, share: float) -> Budget:
        """Returns the budget of second attempts, common to all calls with that share."""
        found = self._hedges.get(share)
        if found is None:
            found = self._hedges[share] = Budget(share, _HEDGES, empty=True)
        return found


class Journey:
    """The state of one call.

    Attributes:
        error: the error for the client if nothing more can be tried.
        current: the deployment of the latest attempt; in a race, of the one that ended last.
        tried: deployment → number of failures, how the last one ended, and the monotonic second before which a retry
            is useless.
        seen: every deployment that was considered.
        script: for a stream that may be continued.
        panicking: every breaker was open; a single attempt is made nevertheless.
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
        self._last: list[Deployment] | None = []  # deployments that yield; None once they are in the queue
        self._stages: deque[str] = deque()
        self._queue: deque[Deployment] = deque()
        self._enqueue(route.settings.strategy, chooser.fleet.group(call.model or "", call.targets))

    @property
    def tokens(self) -> int:
        """Estimated tokens of the call."""
        if self._tokens < 0:
            self._tokens = sum(TOKENS.estimate(self.call))
        return self._tokens

    def reserved(self, deployment: Deployment) -> int:
        """Tokens that an attempt reserves from a limit until its usage is known; 0 without a limit."""
        return self.tokens if deployment.tokens is not None else 0

    async def next(self) -> tuple[Deployment, Breaker | None]:
        """Returns the next deployment, and the breaker to probe, if any. Raises the final error if none is left."""
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
        """Returns a healthy deployment to run in parallel, if the call's attempts and the share of hedges allow it."""
        hedges = self._chooser.hedges(share)
        if not self._left or not hedges.left:
            return None
        planned = self._planned
        found = self._fresh(self._chooser.clock())
        self._planned = planned  # only a failure decides which models come after the call's own, and there was none
        if found is None or found is first:
            return None
        if found.breaker.opens or found.credential.opens:  # a probe never runs in parallel, but may be next
            self._queue.appendleft(found)
            return None
        hedges.take()
        return found

    def begins(self, deployment: Deployment) -> None:
        """Count the start of an attempt."""
        self._left -= 1
        budget = self._chooser.budget(deployment.target.upstream.name)
        if deployment not in self.tried and deployment.target.upstream.name not in self._struck:
            budget.request()

    def failed(self, deployment: Deployment, error: GatewayError, ending: Ending, pause: float) -> bool:
        """Record a failure; returns whether to continue. ``pause``: seconds that the upstream asks to wait."""
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

    # ── remaining candidates ─────────────────────────────────────────────────────────────────────────────────────

    def _plan(self, need: str) -> None:
        self._planned = True
        self._stages = deque(self.route.after[need])

    def _barred(self, one: Deployment, now: float) -> str | None:
        return one.barred(now, self.reserved(one))

    def _fresh(self, now: float) -> Deployment | None:
        """Returns the next candidate that was not tried and is not barred."""
        while True:
            while self._queue:
                one = self._queue.popleft()
                if one in self.tried or self._barred(one, now) is not None:
                    continue
                if self._last is not None and one.breaker.yields > now:
                    self._last.append(one)
                elif self._suits(one):
                    return one
            if not self._planned:  # none of the model's own targets may be used
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
        """Wait, then return a deployment to retry. Raises the error if there is none, no time, or no retry budget."""
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
        self.call.waited += wait  # counts as waiting for upstreams
        if self._barred(chosen, self._chooser.clock()) is not None:
            raise self.error
        return chosen

    def _panic(self, now: float) -> Deployment:
        """Returns a deployment although all are barred: an upstream's error is better than ours. Rate limits are kept.

        Raises:
            BadRequest: no target serves calls with these tags.
            RateLimited: all are at rate limits.
            Overloaded: none is healthy, and ``panic`` is off.
        """
        if not self.seen:
            raise BadRequest(f"no target of {self.call.model!r} serves calls with these tags")
        ranked = {"open": 0, "probing": 1, "credential": 2}
        # a deployment that is not barred here is being probed by another replica
        barred = [(one, self._barred(one, now) or "probing") for one in self.seen]
        usable = [(ranked[why], one.breaker.failed_at, one) for one, why in barred if why in ranked]
        soonest = max(min(one.frees_at(now, self.reserved(one)) for one in self.seen) - now, 0.0)
        if not usable:
            raise RateLimited(f"every target of {self.call.model!r} is at its rate limit", retry_after=soonest)
        if not self._chooser.config.panic:
            raise Overloaded(f"no target of {self.call.model!r} is healthy", retry_after=soonest)
        self.panicking = True
        return min(usable, key=itemgetter(0, 1))[2]


_LIMITED = frozenset({"cooling", "requests", "tokens"})
# a later rejection by the gateway does not replace an upstream's error: the client asked for that upstream's model
_GIVES_WAY = frozenset({"unserved", "denied"})

"""The router: turns a call into attempts until one succeeds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

from gwcore.alarm import Alarm, Single, patience
from gwcore.call import Attempt, Call, Outcome
from gwcore.errors import GatewayError, Refused, UpstreamError
from gwcore.outcomes import TABLE, Ending, ending
from gwcore.plugin import Demand, Plugin, Setup
from gwcore.ports import Sample
from gwcore.service import Service
from gwcore_fallback.checks import Checks
from gwcore_fallback.config import FallbackConfig, Hedge
from gwcore_fallback.continuation import script_for
from gwcore_fallback.explain import explain
from gwcore_fallback.gate import Race
from gwcore_fallback.health import Breaker, Limits
from gwcore_fallback.journey import Chooser, Journey
from gwcore_fallback.plan import Deployment, Fleet, Planner
from gwcore_fallback.retry import retry_after
from gwcore_fallback.routes import Routes
from gwcore_fallback.session import session_of
from gwcore_fallback.shared import Alone, Shared, shared_for

_CONTINUED = replace(TABLE["committed"], retry="elsewhere")
_ALIVE = frozenset({"request", "context_window", "content_policy", "conflict", "rate_limited"})


class Fallback(Plugin):
    """Selects a target for every attempt, evaluates the result, and tries the next while nothing is sent to the client."""

    name = "fallback"
    Config = FallbackConfig

    def __init__(self, config: FallbackConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        clock, random = time.monotonic, Random()  # noqa: S311 - spreads load, guards nothing
        self.limits = Limits(
            allowed_fails=config.allowed_fails,
            failure_rate=config.failure_rate,
            failure_samples=config.failure_samples,
            failure_window=config.failure_window,
            cooldown=config.cooldown,
            max_cooldown=config.max_cooldown,
            key_cooldown=config.key_cooldown,
        )
        self.shared: Alone | Shared = shared_for(setup.store(config.store), config.namespace)
        self._kept: dict[str, Fleet] = setup.once("kept", dict)
        before = self._kept.get("fleet")
        self.fleet = Fleet(config.deployments, self._breaker, clock, before.deployments if before else None)
        self.clock = clock
        self.random = random
        self.shared.fleet = self.fleet
        self.routes = Routes(config, setup.models)
        self._upstreams = list(setup.models.upstreams.values())
        self.chooser = Chooser(
            config=config,
            routes=self.routes,
            fleet=self.fleet,
            planner=Planner(setup.prices.card, random),
            probes=self.shared,
            clock=clock,
            random=random,
        )
        for (
            name,
            targets,
        ) in setup.models.known().items():  # from the start, so that reports of other replicas find their breakers
            self.fleet.group(name, targets)
        if any(one.tokens for one in config.deployments.values()):
            self.demand = Demand.USAGE  # needed only for token limits
        routes = [config, *config.models.values()]
        self.priced = any(one.strategy == "cheapest" or one.budget_aware for one in routes)  # type: ignore[misc]

    def _breaker(self, name: str) -> Breaker:
        return self.shared.born(Breaker(name, self.limits, self.clock, self.random, self.shared.report))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Share health while the stack serves."""
        self._kept["fleet"] = self.fleet
        async with self.shared.running():
            checks = self.config.checks
            if checks is None:
                yield
                return
            prober = asyncio.create_task(Checks(checks, self.fleet, self.shared, self._upstreams).run())
            try:
                yield
            finally:
                prober.cancel()
                await asyncio.wait({prober})

    def router(self, inner: Service[Attempt]) -> Service[Call]:
        """Returns the service that turns a call into attempts."""

        async def fallback(call: Call) -> Outcome:
            journey = self._journey(call)
            hedge = journey.route.settings.hedge
            if hedge is not None:
                self.chooser.hedges(hedge.share).request()
            while True:
                journey.current, probe = await journey.next()
                try:
                    if (
                        hedge is not None
                        and not call.reply.committed
                        and (delay := self._silence(journey, hedge)) is not None
                    ):
                        return await self._race(inner, journey, probe, delay)
                    return await self._attempt(inner, journey, journey.current, probe)
                except GatewayError as error:
                    if self._goes_on(journey, journey.current, error):
                        continue
                    if journey.script is not None and journey.script.closing:
                        await call.reply.end(journey.script.closing)
                        return Outcome(call.reply.status, usage=call.attempts[-1].usage, cost=call.attempts[-1].cost)
                    raise journey.error or error from None

        return fallback

    # ── one call ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _journey(self, call: Call) -> Journey:
        route = self.routes.of(call.model or "")
        limits = [limit for limit in (patience(call), route.settings.deadline) if limit is not None]
        if limits:
            call.deadline = self.clock() + min(limits)
        affinity = route.settings.affinity
        journey = Journey(self.chooser, call, route, None if affinity == "none" else session_of(call, affinity))
        if route.settings.continuation:
            journey.script = script_for(call)
        return journey

    def _goes_on(self, journey: Journey, deployment: Deployment, error: GatewayError) -> bool:
        committed = journey.call.reply.committed
        how = ending(error, committed=committed)
        if committed and (journey.script is None or not journey.script.possible):
            journey.error = error
            return False
        if committed:
            how = _CONTINUED
            journey.call.deadline = None  # the answer has begun in time
        return journey.failed(deployment, error, how, _pause(deployment, error, how, self.clock()))

    async def _attempt(
        self,
        inner: Service[Attempt],
        journey: Journey,
        deployment: Deployment,
        probe: Breaker | None,
        race: Race | None = None,
    ) -> Outcome:
        """Make one attempt, and record its result for the deployment."""
        call = journey.call
        journey.begins(deployment)
        decides = probe is not None or journey.panicking
        attempt = Attempt(call, deployment.target)
        alarm = self._alarm(journey, attempt, deployment, probe, race)
        deployment.begin(journey.reserved(deployment))
        try:
            outcome = await inner(attempt)
        except GatewayError as error:
            if attempt.error is None:  # raised by a layer, before anything was sent
                attempt.error = error
            self._fared(deployment, attempt, error, decides)
            deployment.spared(error, journey.reserved(deployment), committed=call.reply.committed)
            raise
        except asyncio.CancelledError:
            late = alarm.ours() if alarm is not None else None
            if late is None:
                raise
            self._fared(deployment, attempt, late, decides)
            raise late from None
        finally:
            deployment.load.inflight -= 1
            if alarm is not None:
                alarm.off()
                if race is None:
                    call.reply.gate = None
            if probe is not None and not (alarm is not None and alarm.committed):
                self.shared.release(probe)
        if outcome.error is not None:  # an error event of the upstream, already sent to the client
            self._fared(deployment, attempt, outcome.error, decides)
            return outcome
        self._well(deployment, attempt, decides)
        if deployment.tokens is not None and outcome.usage is not None:
            deployment.tokens.add(outcome.usage.total - journey.tokens)
        return outcome

    def _silence(self, journey: Journey, hedge: Hedge) -> float | None:
        """Seconds after which a second attempt starts; ``None`` while there are too few samples."""
        assert journey.current is not None
        return hedge.delay or journey.current.ttft[journey.call.stream].p95()

    async def _race(self, inner: Service[Attempt], journey: Journey, probe: Breaker | None, delay: float) -> Outcome:
        """Make an attempt, and a second one after ``delay``: the first to answer wins, the other is cancelled."""
        call, first = journey.call, journey.current
        assert first is not None
        hedge = journey.route.settings.hedge
        assert hedge is not None
        race = call.reply.gate = Race(call)
        runners = {asyncio.create_task(self._attempt(inner, journey, first, probe, race)): first}
        try:
            await asyncio.wait(runners, timeout=delay)
            if race.winner is None and not any(task.done() for task in runners):
                second = journey.second(first, hedge.share)
                if second is not None:
                    runners[asyncio.create_task(self._attempt(inner, journey, second, None, race))] = second
            waiting = set(runners)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    journey.current = runners[task]
                    error = None if task.cancelled() else task.exception()
                    if race.winner is task or (race.winner is None and (error is None or not waiting)):
                        return task.result()
                    if race.winner is None and isinstance(error, GatewayError):
                        self._goes_on(journey, runners[task], error)
            raise asyncio.CancelledError
        finally:
            for task in runners:
                task.cancel()
            await asyncio.gather(*runners, return_exceptions=True)
            if race.winner is None:
                race.clock()
            call.reply.gate = None

    def _alarm(
        self, journey: Journey, attempt: Attempt, deployment: Deployment, probe: Breaker | None, race: Race | None
    ) -> Alarm | None:
        call, settings = journey.call, journey.route.settings
        decides = probe is not None or journey.panicking
        at: tuple[float, str] | None = None
        if call.deadline is not None:
            at = max(call.deadline - self.clock(), 0.0), "total"
        if settings.first_token is not None and call.stream and (at is None or settings.first_token < at[0]):
            at = settings.first_token, "first_byte"
        if at is None and not decides and race is None and journey.script is None:
            return None

        def begun() -> None:
            # a stream may last for minutes: its beginning is enough to decide the probe, for which other calls wait
            self._alive(deployment, decides=True)
            if probe is not None:
                self.shared.release(probe)

        alarm = Alarm(attempt, at, begun if decides else None)
        if race is not None:
            race.enter(attempt, alarm)
        elif journey.script is not None:
            journey.script.enter(alarm, attempt)
            call.reply.gate = journey.script
        else:
            call.reply.gate = Single(call, alarm)
        return alarm

    # ── results for the deployment ───────────────────────────────────────────────────────────────────────────────

    def _well(self, deployment: Deployment, attempt: Attempt, decides: bool) -> None:
        self._alive(deployment, decides=decides)
        deployment.breaker.refusals = 0
        if attempt.first_byte_at is not None:
            deployment.ttft[attempt.call.stream].add(attempt.first_byte_at - attempt.started)

    @staticmethod
    def _alive(deployment: Deployment, *, decides: bool) -> None:
        deployment.breaker.succeeded(decides=decides)
        if deployment.credential.opens:
            deployment.credential.succeeded(decides=True)

    def _fared(self, deployment: Deployment, attempt: Attempt, error: GatewayError, decides: bool) -> None:
        committed = attempt.call.reply.committed
        how = ending(error, committed=committed)
        breaker = deployment.breaker
        if isinstance(error, UpstreamError) and error.retry_after is None:
            error.retry_after = retry_after(error, time.time)
        if how.health == "failure":
            breaker.failed(how.kind, decides=decides)
        elif how.health == "credential":
            deployment.credential.shut(how.kind)
        elif how.kind in _ALIVE:
            breaker.succeeded(decides=decides)
            if how.health == "cooldown" and error.retry_after:
                breaker.cool(error.retry_after)
            elif how.health == "cooldown":
                breaker.refused()

    def explain(self, call: Call) -> str | None:
        """Returns candidates with scores and prices, in order, and exclusions with reasons."""
        return explain(self.chooser, call)

    def metrics(self) -> Iterator[Sample]:
        """Each deployment of the stack file: its state, failures in a row, attempts in flight."""
        now = self.clock()
        known = self.setup.models.known()
        members = {m.id: m for name, targets in known.items() for m in self.fleet.group(name, targets).members}
        for one in members.values():
            upstream = one.target.upstream
            labels = {"upstream": upstream.name, "model": one.target.model, "key": str(upstream.key)}
            state = 2 if one.barred(now, 0) else int(one.breaker.opens > 0 or one.breaker.yields > now)
            help_ = "0: used; 1: half-open, or tried after all others; 2: not used (breaker open, API key paused, Retry-After, or at its own limits)."
            yield Sample("gwcore_deployment_state", state, labels, help_, merge="max")
            yield Sample(
                "gwcore_deployment_failures",
                one.breaker.fails,
                labels,
                "Failures in a row of the deployment.",
                merge="max",
            )
            yield Sample("gwcore_deployment_in_flight", one.inflight, labels, "Attempts in flight at the deployment.")

    def health(self) -> dict[str, Any]:
        """Every deployment of the stack file, and whether replicas share their health state."""
        now = self.clock()
        shown = {}
        for name, targets in self.setup.models.known().items():
            for one in self.fleet.group(name, targets).members:
                shown[one.id] = one.shown(now)
        state = self.shared.state
        return {"store": state, "degraded": state == "alone", "deployments": shown}


def _pause(deployment: Deployment, error: GatewayError, how: Ending, now: float) -> float:
    """Seconds during which the upstream wants no requests."""
    if how.kind == "rate_limited":
        return max(error.retry_after or 0.0, deployment.breaker.until - now)
    return error.retry_after or 0.0 if isinstance(error, Refused) else 0.0

"""The ``ratelimit`` plugin: admits a call if every rule that applies does; a refused call is charged to no rule."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

import orjson
import structlog

from gwcore.call import Attempt, Call, Outcome
from gwcore.errors import BadConfig, LimitError, RateLimited, StoreUnavailable
from gwcore.estimate import Estimator
from gwcore.plugin import Demand, Plugin, Setup
from gwcore.ports import Sample
from gwcore.service import Service
from gwcore_ratelimit import counting
from gwcore_ratelimit.config import RateLimitConfig, RateLimitPolicy
from gwcore_ratelimit.gcra import PARALLEL, SECOND, TOKENS, Change, Charge, Limit, Verdict, refunds
from gwcore_ratelimit.grant import Grant
from gwcore_ratelimit.guard import Guard
from gwcore_ratelimit.line import Admit, Line
from gwcore_ratelimit.memory import Memory
from gwcore_ratelimit.redis import RedisHome
from gwcore_ratelimit.rules import Bound, rings
from gwcore_ratelimit.table import StoreDown

Limited = TypeVar("Limited", Call, Attempt)
_log = structlog.get_logger("gwcore")


class Limiter(Protocol):
    """Interface of :class:`Memory` and :class:`Guard`, which admit or refuse charges."""

    @property
    def held(self) -> int:
        """Places taken by this worker's calls under parallel limits."""
        ...

    async def admit(self, charges: Sequence[Charge], lease: str) -> Verdict:
        """Apply all charges atomically, or none."""
        ...

    def settle(self, changes: Sequence[Change], lease: str, *, local: bool) -> None:
        """Correct earlier charges."""
        ...


class RateLimit(Plugin):
    """Limits requests, tokens and concurrent calls per key, user, team, organisation, end user, model, upstream or globally.

    Rules that depend on the target (``per: upstream``, ``upstreams``) are checked at each attempt, fallbacks included;
    all others once per call.
    """

    name = "ratelimit"
    Config = RateLimitConfig
    Policy = RateLimitPolicy
    inside = ("auth",)
    throttles = True

    def __init__(self, config: RateLimitConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self._store = setup.store(config.store)
        if self._store.scheme not in {"memory", "redis"}:
            raise BadConfig(
                f"ratelimit: limits are kept in memory or in redis, not in {self._store.scheme}; "
                "leave `store` out, or name a redis store"
            )
        workers = setup.workers
        if self._store.scheme == "memory" and workers.count > 1 and workers.folder is None and config.rules:
            raise BadConfig(
                f"ratelimit: {workers.count} workers with limits in memory would each allow the whole limit; name a redis "
                "store, start with `gwcore run --workers`, or set GWCORE_WORKERS_DIR to a fresh folder that they share"
            )
        self._calls, self._attempts = rings(config, setup.plugin, setup.models)
        self._estimator = Estimator(output=config.output, media=config.media)
        self.demand = Demand.USAGE
        self._limiter: Limiter | None = None
        self._decide: Callable[[Sequence[Charge]], Verdict] | None = None
        self._enter: Admit
        self._tells = config.headers
        self._line: Line | None = None
        self.refused = self.shadowed = 0

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the store of the limits."""
        config: RateLimitConfig = self.config
        home: RedisHome | None = None
        if self._store.scheme == "redis":
            key = ("ratelimit", config.timeout, config.lease, config.namespace)
            home = self._store.once(
                key,
                lambda: RedisHome(
                    self._store.url,
                    timeout=config.timeout,
                    lease=config.lease,
                    least=self.setup.workers.count,
                    # one hash slot for all keys: one script decides on a call's keys, so they must be on one node
                    prefix=f"{{{config.namespace}}}:",
                ),
            )
            await home.enter()
            self._limiter = self._store.once((*key, "guard"), lambda: Guard(home, lambda: (home.workers, home.rank)))
        else:
            self._limiter = self._store.once("ratelimit", self._memory)
        self._enter = self._limiter.admit
        if config.wait:
            self._line = Line(self._limiter.admit, wait=config.wait, most=config.queue)
            self._enter = self._line.admit
        elif isinstance(self._limiter, Memory):
            self._decide = self._limiter.decide
        try:
            yield
        finally:
            if home is not None:
                await home.leave()

    def _memory(self) -> Limiter:
        workers = self.setup.workers
        if workers.folder is None or workers.count == 1:
            return Memory()
        # one folder per store: two memory stores keep separate limits
        folder = workers.folder / f"ratelimit-{blake2b(self._store.url.encode(), digest_size=6).hexdigest()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        shared = Memory(folder)
        return Guard(shared, lambda: (workers.count, shared.column % workers.count))

    # ── the rings ────────────────────────────────────────────────────────────────────────────────────────────────

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Limit each client request."""
        rules = self._calls

        def ratelimit(call: Call) -> Coroutine[Any, Any, Outcome]:
            bound = rules.bind(call)
            if bound is None:
                return inner(call)
            return self._limited(inner, call, bound, call, call.attempts)

        return ratelimit

    def attempt_layer(self, inner: Service[Attempt]) -> Service[Attempt]:
        """Limit each upstream attempt; does nothing if no rule depends on the target."""
        rules, none = self._attempts, not self._attempts.limits
        name = self.setup.plugin

        def ratelimit(attempt: Attempt) -> Coroutine[Any, Any, Outcome]:
            principal = attempt.call.principal
            if none and (principal is None or name not in principal.policies):
                return inner(attempt)
            bound = rules.bind(attempt.call, attempt.target)
            if bound is None:
                return inner(attempt)
            return self._limited(inner, attempt, bound, attempt.call, [attempt])

        return ratelimit

    async def _limited(
        self, inner: Service[Limited], x: Limited, bound: Bound, call: Call, attempts: Sequence[Attempt]
    ) -> Outcome:
        """Raises ``RateLimited``, and ``StoreUnavailable`` if limits cannot be checked and may not be skipped."""
        grant = Grant(bound, attempts)
        if bound.tokens:
            self._estimate(call, grant)
        if bound.never is not None:
            raise refusal(bound.never, None)
        try:
            if self._decide is not None:
                verdict = self._decide(grant.charges)
            else:
                verdict = await self._enter(grant.charges, x.id)
        except StoreDown as error:
            raise StoreUnavailable(f"limits cannot be checked: {error}", retry_after=1.0) from None
        grant.verdict = verdict
        if self._tells:
            grant.tell(call)
        if verdict.shadowed:
            self.shadowed += 1
        if verdict.refused >= 0:
            self.refused += 1
            raise refusal(grant.charges[verdict.refused], verdict.wait)
        try:
            outcome = await inner(x)
        except BaseException as error:
            self._settle(call, grant, x.id, error)
            raise
        self._settle(call, grant, x.id, None)
        return outcome

    def _estimate(self, call: Call, grant: Grant) -> None:
        bound, charges = grant.bound, [*grant.charges]
        grant.charges = charges
        grant.size = self._estimator.size(call)
        estimate = self._estimator.estimate(call, bound.who, grant.size)
        for n in bound.tokens:
            limit, key, _ = charges[n]
            charges[n] = limit, key, self._tokens(limit, key, estimate)

    @staticmethod
    def _tokens(limit: Limit, key: str, estimate: tuple[int, int]) -> int:
        """Tokens charged up front, at most ``limit.largest``. Raises ``RateLimited`` if counted input alone is more."""
        read, written = estimate
        if limit.count == "output":
            return min(written, limit.largest)
        if read > limit.largest and not limit.shadow:
            raise RateLimited(
                f"the request is too large: about {read} tokens, and {describe(limit)} admits at most {limit.largest} at once"
                f"{_who(limit, key)}",
                headers=(("x-should-retry", "false"),),
            )
        return min(read if limit.count == "input" else read + written, limit.largest)

    def _settle(self, call: Call, grant: Grant, lease: str, error: BaseException | None) -> None:
        """Correct tokens and end the lease; refund all if another limiter refused before any dispatch. Never awaits."""
        attempts, bound, verdict = grant.attempts, grant.bound, grant.verdict
        void = error is not None and isinstance(error, LimitError) and not any(map(counting.dispatched, attempts))
        changes: list[Change] = []
        if grant.size is not None:
            grant.count(final=error is None)
            changes = grant.changes
            if error is None and grant.lesson is not None:
                self._estimator.learn(call.model, bound.who, grant.size, grant.lesson)
            _note(call, attempts, dict.fromkeys(grant.told, 0) if void else grant.told)
        if void:
            changes = refunds(grant.charges, verdict)
        elif bound.places:
            changes += [change for change in refunds(grant.charges, verdict) if change[0].kind == PARALLEL]
        if changes:
            assert self._limiter is not None
            try:
                self._limiter.settle(changes, lease, local=verdict.local)
            except StoreDown as problem:
                _log.warning("limits could not be corrected", problem=str(problem))

    # ── reporting ────────────────────────────────────────────────────────────────────────────────────────────────

    def explain(self, call: Call) -> str | None:
        """The limits that would apply to the call, and the tokens they would be charged."""
        target = call.targets[0] if call.targets else None
        bounds = self._calls.bind(call), self._attempts.bind(call, target)
        estimate = self._estimator.estimate(call, None, self._estimator.size(call))
        said = []
        for limit, key, _ in [charge for bound in bounds if bound is not None for charge in bound.charges]:
            cost = ""
            if limit.kind == TOKENS:
                cost = (
                    f", this call about {self._tokens(limit, key, estimate)} until its usage is counted: {limit.manner}"
                )
            said.append(f"{describe(limit)}{_who(limit, key)}{cost}{' (shadow)' if limit.shadow else ''}")
        return "; ".join(said) or "no rule binds this call"

    def metrics(self) -> Iterator[Sample]:
        """This worker's held, waiting and refused calls, and whether its store is unreachable."""
        limiter = self._limiter
        degraded = isinstance(limiter, Guard) and limiter.degraded_since is not None
        held = limiter.held if limiter is not None else 0
        waiting = self._line.waiting if self._line is not None else 0
        yield Sample("gwcore_ratelimit_held", held, help="Concurrency slots in use.")
        yield Sample("gwcore_ratelimit_waiting", waiting, help="Calls queued for a limit.")
        yield Sample(
            "gwcore_ratelimit_degraded",
            degraded,
            help="1 while the store of limits is unreachable, else 0.",
            merge="max",
        )
        yield Sample("gwcore_ratelimit_refused", self.refused, help="Calls rejected by a limit.", kind="counter")
        yield Sample(
            "gwcore_ratelimit_shadow_refused",
            self.shadowed,
            help="Calls that a shadow rule would have rejected.",
            kind="counter",
        )

    def health(self) -> dict[str, Any]:
        """Counts of this worker; ``degraded`` while the store is unreachable and each worker enforces its share."""
        limiter = self._limiter
        return {
            "store": self._store.scheme,
            "degraded": isinstance(limiter, Guard) and limiter.degraded_since is not None,
            "held": limiter.held if limiter is not None else 0,
            "waiting": self._line.waiting if self._line is not None else 0,
            "refused": self.refused,
            "shadow_refused": self.shadowed,
        }


def describe(limit: Limit) -> str:
    """``600 requests per 60 s``, ``10 parallel requests``."""
    if limit.kind == PARALLEL:
        return f"{limit.amount} parallel requests"
    counted_as = f"{limit.count} " if limit.kind == TOKENS and limit.count != "total" else ""
    if limit.kind == TOKENS and not limit.count_cached:
        counted_as = f"uncached {counted_as}"
    return f"{limit.amount} {counted_as}{limit.kind} per {limit.period // SECOND} s"


def _note(call: Call, attempts: Sequence[Attempt], told: dict[str, int]) -> None:
    """Store the counted tokens in the call's facts; names from the attempt ring are prefixed with the upstream."""
    if attempts is not call.attempts:
        told = {f"{attempts[0].target.upstream.name} {name}": tokens for name, tokens in told.items()}
    known = call.facts.get(counting.FACT)
    call.facts[counting.FACT] = told if known is None else {**known, **told}


def _who(limit: Limit, key: str) -> str:
    said = key.partition(":")[2]
    values = orjson.loads(said) if said.startswith("[") else [""] * len(limit.scopes)
    named = [f"{scope} {value}".strip() for scope, value in zip(limit.scopes, values, strict=True)]
    return f" for {', '.join(named)}" if limit.scopes != ("global",) else " for everybody"


def _digits(seconds: float) -> str:
    """Up to three digits, rounded up, without an exponent: a limit per day has waits of hours."""
    if seconds >= 100:
        return str(math.ceil(seconds))
    scale = 1000 if seconds < 1 else 100 if seconds < 10 else 10
    return f"{math.ceil(seconds * scale) / scale:g}"


def refusal(charge: Charge, wait: int | None) -> RateLimited:
    """The error for a reached limit; ``wait``: microseconds until a retry can succeed, ``None`` for never."""
    limit, key, _ = charge
    if wait is None:
        message = f"rate limit reached: {describe(limit)}{_who(limit, key)}"
        return RateLimited(message, headers=(("x-should-retry", "false"),))
    seconds = wait / SECOND
    return RateLimited(
        f"rate limit reached: {describe(limit)}{_who(limit, key)}; retry in {_digits(seconds)} s",
        retry_after=seconds,
        headers=(("retry-after-ms", str(-(-wait // 1000))),),
    )

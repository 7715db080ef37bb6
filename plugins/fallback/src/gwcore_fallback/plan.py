"""Which deployments a call may use, and in what order. Pure except for health; randomness is injected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from random import Random
from typing import Any, TypeVar

from gwcore.call import Call, Target
from gwcore.errors import GatewayError
from gwcore.estimate import Estimator
from gwcore.outcomes import ending
from gwcore.prices import PriceCard
from gwcore.provider import Upstream
from gwcore.units import Rate
from gwcore.usage import Usage
from gwcore_fallback.config import DeploymentConfig
from gwcore_fallback.health import Breaker, Latency, Window

V = TypeVar("V")
TOKENS = Estimator(output=512)  # only used to compare candidates and to reserve part of a limit
_OUTLIER, _OUTLIER_SAMPLES, _EJECTED = 3.0, 20, 10.0
_KNOWN = 4096
# rejected by the gateway itself: not counted as an attempt, and never retried at the same deployment
UNSENT = frozenset({"unserved", "denied", "budget"})
UNASKED = UNSENT | {"unreachable", "exhausted"}

Prices = Callable[[Target], PriceCard | None]


class Load:
    """Attempts in flight at a deployment, including those that began before a reload."""

    __slots__ = ("inflight",)

    def __init__(self) -> None:
        self.inflight = 0


class Deployment:
    """One target with one credential, its health and its limits.

    Attributes:
        id: ``upstream/model``, with ``#2`` for the second of several credentials.
        load: attempts in flight.
        ttft: seconds to the first content; of complete answers, and of streams.
        requests: window of its own limit of requests; ``None`` if unlimited.
        tokens: likewise.
    """

    __slots__ = (
        "breaker", "credential", "id", "load", "requests", "settings", "tags", "target", "tokens", "ttft", "weight"
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        settings: DeploymentConfig,
        breaker: Breaker,
        credential: Breaker,
        clock: Callable[[], float],
    ) -> None:
        self.id = breaker.id
        self.target = target
        self.settings = settings
        self.breaker = breaker
        self.credential = credential
        self.weight = settings.weight * target.upstream.weight
        self.tags = frozenset(settings.tags)
        self.load = Load()
        self.ttft = (Latency(), Latency())  # index is call.stream
        self.requests, self.tokens = (_window(rate, clock) for rate in (settings.requests, settings.tokens))

    @property
    def resting(self) -> bool:
        """Whether it has no state worth keeping."""
        breaker = self.breaker
        return not (self.inflight or breaker.fails or breaker.opens or breaker.until or breaker.yields)

    @property
    def inflight(self) -> int:
        """Attempts in flight."""
        return self.load.inflight

    def begin(self, tokens: int) -> None:
        """Count the start of an attempt that reserves ``tokens``."""
        self.load.inflight += 1
        if self.requests is not None:
            self.requests.add(1)
        if self.tokens is not None:
            self.tokens.add(tokens)

    def follows(self, other: Deployment) -> None:
        """Take over the state from before a reload: health, latency, usage. Not if its URL or headers have changed."""
        ours, theirs = self.target.upstream, other.target.upstream
        if (ours.origin, ours.base_path, ours.headers) != (theirs.origin, theirs.base_path, theirs.headers):
            return
        self.breaker.follows(other.breaker)
        self.ttft, self.load = other.ttft, other.load
        for window, before in ((self.requests, other.requests), (self.tokens, other.tokens)):
            if window is not None and before is not None:
                window.follows(before)

    def spared(self, error: GatewayError, tokens: int, *, committed: bool) -> None:
        """Give back what a failed attempt cannot have used of the limits."""
        how = ending(error, committed=committed)
        if self.requests is not None and how.kind in UNASKED:
            self.requests.add(-1)
        if self.tokens is not None and how.money == "void":
            self.tokens.add(-tokens)

    def barred(self, now: float, tokens: int) -> str | None:
        """Why nothing may be sent now; ``None`` if it may. An open breaker that is due for a probe does not bar."""
        for guard in (self.breaker, self.credential):
            if guard.until > now:
                return "cooling" if guard.cooling else "open" if guard is self.breaker else "credential"
            if guard.opens and guard.probing:
                return "probing"
        if self.requests is not None and self.requests.used() >= self.requests.amount:
            return "requests"
        if self.tokens is not None and self.tokens.used() + tokens > self.tokens.amount and self.tokens.used():
            return "tokens"
        return None

    def shown(self, now: float) -> dict[str, Any]:
        """State for ``GET /health``, without secrets."""
        barred = self.barred(now, 0)
        shown: dict[str, Any] = {"state": barred or ("half_open" if self.breaker.opens else "closed")}
        if barred is not None:
            shown["until_s"] = round(self.frees_at(now, 0) - now, 3)
            shown["reason"] = self._why(barred)
        elif self.breaker.yields > now:
            shown |= {"state": "yielding", "until_s": round(self.breaker.yields - now, 3), "reason": "rate_limited"}
        shown |= {"fails": self.breaker.fails, "inflight": self.inflight}
        for word, seen in zip(("whole_ms", "first_token_ms"), self.ttft, strict=True):
            if seen.count:
                shown[word] = round(seen.average * 1000, 1)
        for word, window in (("requests", self.requests), ("tokens", self.tokens)):
            if window is not None:
                shown[word] = f"{window.used()} of {window.amount}"
        return shown

    def _why(self, barred: str) -> str:
        if barred in {"cooling", "requests", "tokens"}:
            return "rate_limited"
        bars = self.credential if barred == "credential" or not self.breaker.opens else self.breaker
        return bars.reason

    def frees_at(self, now: float, tokens: int) -> float:
        """Earliest monotonic second at which :meth:`barred` may change."""
        at = max(self.breaker.until, self.credential.until, now)
        for window, wanted in ((self.requests, 1), (self.tokens, tokens)):
            if window is not None and (used := window.used()) and used + wanted > window.amount:
                at = max(at, now + window.free_in(min(used + wanted - window.amount, used)))
        return at


def _window(rate: Rate | None, clock: Callable[[], float]) -> Window | None:
    return None if rate is None else Window(rate.amount, rate.per, clock)


class Fleet:
    """Every deployment used so far, by id; bounded, since clients choose model names.

    Args:
        settings: ``upstream/model`` or wildcard → its settings.
        breaker: creates the breaker of a deployment or, if named ``key:…``, of a credential.
        before: deployments before a reload, by id. Credentials start fresh: a reload may have fixed them.
    """

    def __init__(
        self,
        settings: Mapping[str, DeploymentConfig],
        breaker: Callable[[str], Breaker],
        clock: Callable[[], float],
        before: Mapping[str, Deployment] | None = None,
    ) -> None:
        self._before = dict(before or {})
        self._settings = settings
        self._breaker = breaker
        self._clock = clock
        self.deployments: dict[str, Deployment] = {}
        self.credentials: dict[str, Breaker] = {}
        self._groups: dict[str, tuple[tuple[Target, ...], Group]] = {}

    def group(self, name: str, targets: tuple[Target, ...]) -> Group:
        """Returns the deployments of targets, one per credential."""
        known = self._groups.get(name)
        if known is not None and known[0] is targets:
            return known[1]
        members = [self.of(Target(upstream, t.model)) for t in targets for upstream in t.upstream.keys or (t.upstream,)]
        made = Group(members)
        if known is not None and len(members) < len(known[1].members):
            return made  # only part of the targets or credentials, for this call only: not cached
        if len(self._groups) >= _KNOWN:
            self._groups.clear()
        self._groups[name] = (targets, made)
        return made

    def of(self, target: Target) -> Deployment:
        """Returns the deployment of a target whose upstream has one credential."""
        name = identity(target)
        found = self.deployments.get(name)
        if found is None or found.target.upstream is not target.upstream:
            settings = best(self._settings, str(target)) or DeploymentConfig()
            found = Deployment(target, settings, self._breaker(name), self.credential(target.upstream), self._clock)
            was = self._before.pop(name, None)
            if was is not None:
                found.follows(was)
            if len(self.deployments) >= _KNOWN:
                self.deployments = {key: one for key, one in self.deployments.items() if not one.resting}
            if len(self.deployments) < _KNOWN:
                self.deployments[name] = found
        return found

    def credential(self, upstream: Upstream) -> Breaker:
        """Returns the breaker of an upstream's credential."""
        name = f"key:{upstream.name}#{upstream.key}"
        if name not in self.credentials:
            self.credentials[name] = self._breaker(name)
        return self.credentials[name]

    def guard(self, name: str) -> Breaker | None:
        """Returns the breaker with this id, if this process has it."""
        found = self.deployments.get(name)
        return found.breaker if found is not None else self.credentials.get(name)


class Group:
    """The deployments of one name, in stack file order."""

    __slots__ = ("_ejected", "_looked", "members", "tags")

    def __init__(self, members: Sequence[Deployment]) -> None:
        self.members = list(members)
        self.tags = frozenset[str]().union(*(one.tags for one in members))
        self._ejected: dict[str, float] = {}
        self._looked = 0.0

    def slow(self, now: float, *, stream: bool) -> dict[str, float]:
        """Ids ejected for ten seconds, because their time to first token is over three times the median.

        Evaluated once per second; ejects at most half of the group. A deployment that returns is measured anew, since
        nothing was sent to it meanwhile.
        """
        if now - self._looked < 1.0 or len(self.members) < 3:
            return self._ejected
        self._looked = now
        for one in self.members:
            if self._ejected.get(one.id, now) + _EJECTED < now:
                del self._ejected[one.id]
                one.ttft = (Latency(), Latency())
        seen = sorted(one.ttft[stream].average for one in self.members if one.ttft[stream].count >= _OUTLIER_SAMPLES)
        if len(seen) > 2:
            limit = _OUTLIER * seen[(len(seen) - 1) // 2]
            for one in sorted(self.members, key=lambda one: -one.ttft[stream].average):
                if one.ttft[stream].average > limit and len(self._ejected) < len(self.members) // 2:
                    self._ejected.setdefault(one.id, now)
        return self._ejected


def _estimated(call: Call) -> Usage:
    read, written = TOKENS.estimate(call)
    return Usage(input=read, output=written)


class Planner:
    """Orders the members of a group for a call.

    Args:
        prices: returns a target's price card; ``None`` if unknown.
    """

    def __init__(self, prices: Prices, random: Random) -> None:
        self._prices = prices
        self._random = random

    def order(
        self,
        strategy: str,
        group: Group,
        members: Sequence[Deployment],
        *,
        call: Call,
        now: float,
        session: bytes | None,
    ) -> list[Deployment]:
        """Returns all members in order of preference."""
        if len(members) < 2:
            return list(members)
        if session is not None:
            return sorted(members, key=lambda one: _rendezvous(session, one))
        chosen = _STRATEGIES[strategy](self, members, call)
        if strategy in _BALANCING and (slow := group.slow(now, stream=call.stream)):
            chosen.sort(key=lambda one: one.id in slow)
        return chosen

    def cost(self, deployment: Deployment, call: Call) -> int | None:
        """Estimated cost of the call in nano-USD; ``None`` if it has no price."""
        return self._cost(deployment, _estimated(call))

    def _cost(self, deployment: Deployment, usage: Usage) -> int | None:
        card = self._prices(deployment.target)
        if card is None:
            return None
        charge = card.charge(usage)
        return None if charge.unpriced else charge.nano

    def ordered(self, members: Sequence[Deployment], _call: Call) -> list[Deployment]:
        """As listed; several credentials of one target are shuffled by weight."""
        if len({one.target.model + one.target.upstream.name for one in members}) == len(members):
            return list(members)
        spread = iter(self.shuffle(members, _call))
        places: dict[tuple[str, str], int] = {}
        for one in members:
            places.setdefault((one.target.upstream.name, one.target.model), len(places))
        return sorted(spread, key=lambda one: places[one.target.upstream.name, one.target.model])

    def shuffle(self, members: Sequence[Deployment], _call: Call) -> list[Deployment]:
        """At random by weight, without replacement (Efraimidis and Spirakis); weight 0 comes last."""
        draw = self._random.random
        return sorted(members, key=lambda one: -math.log(1.0 - draw()) / one.weight if one.weight else math.inf)

    def least_busy(self, members: Sequence[Deployment], _call: Call) -> list[Deployment]:
        """Fewest attempts in flight per weight; ties at random."""
        draw = self._random.random
        return sorted(members, key=lambda one: ((one.load.inflight + 1) / (one.weight or 1e-9), draw()))

    def fastest(self, members: Sequence[Deployment], call: Call) -> list[Deployment]:
        """Power of two choices on time to first token times load; deployments without a measurement come first.

        A measurement expires once others were chosen often enough: otherwise a slow deployment would stay unused.
        """
        scores = {one.id: score(one, call) for one in members}
        for one in members:
            one.ttft[call.stream].passed += 1
        unknown = [one for one in members if not one.ttft[call.stream].known and not one.load.inflight]
        if unknown:
            first = self._random.choice(unknown)
        else:
            first = min(self._random.sample(members, 2), key=lambda one: scores[one.id])
        rest = sorted((one for one in members if one is not first), key=lambda one: scores[one.id])
        return [first, *rest]

    def cheapest(self, members: Sequence[Deployment], call: Call) -> list[Deployment]:
        """By estimated cost; unpriced deployments come last, since they are not free."""
        usage = _estimated(call)
        costs = {one.id: self._cost(one, usage) for one in members}

        def rank(one: Deployment) -> tuple[bool, int]:
            cost = costs[one.id]
            return cost is None, cost or 0

        return sorted(members, key=rank)

    def usage(self, members: Sequence[Deployment], _call: Call) -> list[Deployment]:
        """Furthest below its own limits first; ties at random."""
        draw = self._random.random
        return sorted(members, key=lambda one: (utilisation(one), draw()))


_BALANCING = frozenset({"shuffle", "least-busy", "usage"})
_STRATEGIES: Mapping[str, Callable[[Planner, Sequence[Deployment], Call], list[Deployment]]] = {
    "ordered": Planner.ordered,
    "shuffle": Planner.shuffle,
    "least-busy": Planner.least_busy,
    "fastest": Planner.fastest,
    "cheapest": Planner.cheapest,
    "usage": Planner.usage,
}


def identity(target: Target) -> str:
    """``upstream/model``, and ``#`` with the number of the credential, except for the first."""
    key = target.upstream.key
    return f"{target}#{key}" if key else str(target)


def best(table: Mapping[str, V], name: str) -> V | None:
    """Returns the entry for a name: the exact one, otherwise the longest matching wildcard."""
    found = table.get(name)
    if found is not None:
        return found
    fitting = [pattern for pattern in table if "*" in pattern and fnmatchcase(name, pattern.replace("[", "[[]"))]
    return table[max(fitting, key=len)] if fitting else None


def score(deployment: Deployment, call: Call) -> float:
    """Time to first token in seconds, times the attempts in flight plus one; 0 without a measurement."""
    seen = deployment.ttft[call.stream]
    return seen.average * (deployment.load.inflight + 1)


def utilisation(deployment: Deployment) -> float:
    """Used share of the tighter limit; 0 without limits."""
    windows = [window for window in (deployment.requests, deployment.tokens) if window is not None]
    return max((window.used() / window.amount for window in windows), default=0.0)


def tagged(members: Sequence[Deployment], tags: frozenset[str], *, strict: bool) -> list[Deployment]:
    """Returns members with one of the call's tags; if there are none and not ``strict``, those without tags."""
    with_tag = [one for one in members if not one.tags.isdisjoint(tags)]
    return with_tag if with_tag or strict else [one for one in members if not one.tags]


def _rendezvous(session: bytes, deployment: Deployment) -> float:
    """Weighted rendezvous hashing: all replicas get the same order, and a lost deployment moves only its sessions."""
    digest = blake2b(session + deployment.id.encode(), digest_size=8).digest()
    unit = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -math.log(unit) / deployment.weight if deployment.weight else math.inf

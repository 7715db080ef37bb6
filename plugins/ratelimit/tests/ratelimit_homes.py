"""The homes of the limits under a clock that tests set, and an exact model of what they must do."""

import asyncio
import math
import uuid
from collections import defaultdict
from fractions import Fraction
from typing import NamedTuple

from gwcore.resources import redis_client
from gwcore_ratelimit.gcra import BUCKETS, PARALLEL, Limit, Verdict
from gwcore_ratelimit.memory import RETRY, Memory
from gwcore_ratelimit.redis import RedisHome

START = 1_800_000_000_000_000
TTL = 10**15


class Charge(NamedTuple):
    limit: Limit
    key: str
    cost: int


class Reading(NamedTuple):
    remaining: int
    reset: int
    stamp: int = 0


def limit(kind="requests", amount=10, period=60_000_000, burst=None, *, strict=False, **fields):
    width = -(-period // BUCKETS) if strict else 0
    return Limit("id", kind, amount, period, burst or amount, width, ("key",), **fields)


def changes(charges, stamps):
    return [(*charge, stamp) for charge, stamp in zip(charges, stamps, strict=True)]


class MemoryUnderTest:
    kind = Memory

    def __init__(self, _url=None):
        self.now = START
        self.home = self.kind(clock=lambda: self.now)

    def advance(self, micros):
        self.now += micros

    def admit(self, charges, lease="l"):
        return self.home.decide(charges)

    def settle(self, charges, stamps, lease="l"):
        self.home.settle(changes(charges, stamps))

    def close(self):
        asyncio.run(self.home.aclose())


class RedisUnderTest:
    def __init__(self, url):
        self.now = START
        self.prefix = f"{{t{uuid.uuid4().hex}}}:"
        clock = f"local function now_us() return tonumber(redis.call('GET', '{self.prefix}now')) end\n"
        self.home = RedisHome(url, timeout=5, lease=TTL / 1e6, prefix=self.prefix, clock=clock)
        self.runner = asyncio.Runner()
        self.runner.run(self._open(url))

    async def _open(self, url):
        self.home._client = redis_client(url, 5, most=2)
        await self.home._client.set(self.prefix + "now", START)

    def advance(self, micros):
        self.now += micros
        self.runner.run(self.home._client.set(self.prefix + "now", self.now))

    def admit(self, charges, lease="l"):
        return self.runner.run(self.home.admit(charges, lease, {}))

    def settle(self, charges, stamps, lease="l"):
        async def settle():
            self.home.settle(changes(charges, stamps), lease)
            await self.home.flush()

        self.runner.run(settle())

    def close(self):
        async def close():
            client = self.home._client
            keys = [key async for key in client.scan_iter(self.prefix + "*")]
            await client.delete(*keys)
            await client.aclose()

        self.runner.run(close())
        self.runner.close()


class Model:
    """Exact rationals, one plain statement per rule; shares no code with the homes."""

    def __init__(self):
        self.now = START
        self.tat = defaultdict(Fraction)
        self.windows = defaultdict(lambda: defaultdict(int))
        self.leases = defaultdict(list)

    def advance(self, micros):
        self.now += micros

    def _counts(self, lim, key):
        bucket = self.now // lim.width
        return bucket, {b: n for b, n in self.windows[key].items() if b >= bucket - BUCKETS}

    def _wait(self, charge):
        lim, key, cost = charge
        if lim.kind == PARALLEL:
            return 0 if len(self.leases[key]) < lim.amount else RETRY
        if lim.width:
            _, counts = self._counts(lim, key)
            leave_at = self.now
            for bucket in sorted(counts):
                if sum(counts.values()) + cost <= lim.amount:
                    break
                del counts[bucket]
                leave_at = (bucket + BUCKETS + 1) * lim.width
            return leave_at - self.now
        per_unit = Fraction(lim.period, lim.amount)
        tat = max(self.tat[key], self.now) + cost * per_unit
        return max(0, math.ceil(tat - lim.burst * per_unit - self.now)) if cost else 0

    def admit(self, charges, lease="l"):
        waits = [self._wait(charge) for charge in charges]
        refused, wait = -1, 0
        for n, charge in enumerate(charges):
            if not charge.limit.shadow and waits[n] > wait:
                refused, wait = n, waits[n]
        if refused < 0:
            for charge, blocked in zip(charges, waits, strict=True):
                if not blocked:
                    self._charge(charge, lease)
        shadowed = tuple(n for n, c in enumerate(charges) if c.limit.shadow and waits[n])
        return Verdict(refused, wait, [self.read(charge) for charge in charges], shadowed)

    def _charge(self, charge, lease):
        lim, key, cost = charge
        if lim.kind == PARALLEL:
            self.leases[key].append(lease)
        elif lim.width:
            self.windows[key][self.now // lim.width] += cost
        else:
            self.tat[key] = max(self.tat[key], self.now) + cost * Fraction(lim.period, lim.amount)

    def read(self, charge):
        lim, key, _ = charge
        if lim.kind == PARALLEL:
            return Reading(max(0, lim.amount - len(self.leases[key])), 0)
        if lim.width:
            bucket, counts = self._counts(lim, key)
            last = max((b for b, n in counts.items() if n), default=None)
            reset = 0 if last is None else (last + BUCKETS + 1) * lim.width - self.now
            return Reading(max(0, lim.amount - sum(counts.values())), reset, bucket)
        per_unit = Fraction(lim.period, lim.amount)
        lead = max(self.tat[key] - self.now, Fraction(0))
        return Reading(max(0, math.floor(lim.burst - lead / per_unit)), math.ceil(lead))

    def settle(self, charges, stamps, lease="l"):
        for (lim, key, more), stamp in zip(charges, stamps, strict=True):
            if lim.kind == PARALLEL:
                self.leases[key].remove(lease)
            elif lim.width:
                bucket, counts = self._counts(lim, key)
                if more > 0:
                    self.windows[key][bucket] += more
                elif stamp in counts:
                    self.windows[key][stamp] = max(0, self.windows[key][stamp] + more)
            else:
                per_unit = Fraction(lim.period, lim.amount)
                tat = max(self.tat[key], Fraction(self.now))
                most = max(tat, self.now + 2 * lim.burst * per_unit)
                self.tat[key] = min(max(tat + more * per_unit, Fraction(self.now)), most)


HOMES = {"memory": MemoryUnderTest, "redis": RedisUnderTest}
__all__ = ["HOMES", "START", "Charge", "MemoryUnderTest", "Model", "RedisUnderTest", "limit"]

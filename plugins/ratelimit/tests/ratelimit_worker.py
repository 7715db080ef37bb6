"""The worker processes of the tests: each asks a home as fast as told; prints what each was told as JSON.

Times are of the monotonic clock, which all processes of a machine share.
"""

import asyncio
import random
import sys
import time
from pathlib import Path

import structlog

from gwcore_ratelimit.gcra import BUCKETS, Limit
from gwcore_ratelimit.guard import Guard
from gwcore_ratelimit.memory import Memory
from gwcore_ratelimit.redis import RedisHome
from gwcore_ratelimit.table import StoreDown
from tests.crew import crew

DAY = 86_400_000_000


def limits(said):
    """Whose decision is tested, one that counts exactly and never refuses, and one that is far."""
    tested = Limit("a", "requests", said["amount"], said["period"], said["burst"])
    counts = Limit("b", "tokens", 10**9, DAY, 10**9, DAY // BUCKETS)
    return tested, counts, Limit("c", "requests", 10**7, 60_000_000, 10**7)


async def open_home(said):
    if said["home"] == "memory":
        home = Memory(Path(said["at"]))
        return home, home.admit, home.aclose
    if said["home"] == "alone":
        home = Memory()
        return home, home.admit, home.aclose
    home = RedisHome(said["at"], timeout=said["timeout"], lease=15, least=said.get("least", 1))
    await home.enter()
    if not said.get("guarded"):
        return home, lambda charges, lease: home.admit(charges, lease, {}), home.leave
    share = said.get("share")
    guard = Guard(home, (lambda: tuple(share)) if share else (lambda: (home.workers, home.rank)))
    return guard, guard.admit, home.leave


async def main(said, seed, begin):
    tested, counts, far = limits(said)
    random_ = random.Random(seed)
    home, admit, close = await open_home(said)
    await asyncio.to_thread(begin)
    end, number = time.monotonic() + said["seconds"], 0
    admitted, slowest, refused, degraded = [], [], 0, []
    while (began := time.monotonic()) < end:
        number += 1
        cost = random_.randint(1, said["most"])
        charges = [(far, "far", 1), (counts, "counts", cost), (tested, "tested", cost)]
        try:
            verdict = await admit(charges, f"{seed}-{number}")
        except StoreDown:  # a worker was stopped by the system while it held the lock: nothing was decided
            continue
        done = time.monotonic()
        slowest.append(done - began)
        if verdict.refused < 0:
            admitted.append((began, done, cost))
        else:
            refused += 1
        if verdict.local and degraded[-1:] != [done]:
            degraded.append(done)
        await asyncio.sleep(max(0.0, said["pace"] - (time.monotonic() - began)) if said["pace"] else 0)
    left = None
    if isinstance(home, Memory):
        left = home.decide([(counts, "counts", 0)]).readings[0][0]
    elif isinstance(home, RedisHome):
        left = (await home.admit([(counts, "counts", 0)], "x", {})).readings[0][0]
    await close()
    slowest.sort()
    p99 = slowest[int(len(slowest) * 0.99) - 1]
    found = {"admitted": admitted, "refused": refused, "left": left, "p99": p99, "max": slowest[-1]}
    return found | {"degraded": [degraded[0], degraded[-1]] if degraded else None}


if __name__ == "__main__":
    # stdout is for what was found
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    crew(main)

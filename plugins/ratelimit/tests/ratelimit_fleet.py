"""Several worker processes at once, and what their answers mean together."""

import asyncio
import json
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("ratelimit_worker.py")


async def fleet(count, during=None, **said):
    """What each of ``count`` workers found; they start together, once all are ready."""
    base = {"seconds": 2.0, "most": 3, "pace": 0, "timeout": 5.0, "amount": 600, "period": 60_000_000, "burst": 60}
    workers = []
    for seed in range(count):
        text = json.dumps({**base, **said, "seed": seed})
        pipe = asyncio.subprocess.PIPE
        workers.append(
            await asyncio.create_subprocess_exec(sys.executable, WORKER, text, stdin=pipe, stdout=pipe, limit=1 << 26)
        )
    try:
        for worker in workers:
            assert (await worker.stdout.readline()).strip() == b"ready"
        for worker in workers:
            worker.stdin.write(b"go\n")
        happening = asyncio.create_task(during()) if during else None
        found = [json.loads(await worker.stdout.readline()) for worker in workers]
        if happening:
            await happening
    finally:
        for worker in workers:
            if worker.returncode is None:
                await worker.wait()
    return found


def most_within(admitted, seconds):
    """The largest cost that surely passed in some window of that length: decided after its start and before its end."""
    starts = sorted(admitted)
    most = 0
    for first, _, _ in starts:
        most = max(most, sum(cost for began, done, cost in starts if began >= first and done <= first + seconds))
    return most


def all_of(found):
    return [tuple(one) for worker in found for one in worker["admitted"]]

"""Cost of a cache hit: ``python benchmarks/cache.py``. It never asserts a time.

The layer alone, in this process: CPU of one hit by size of request and answer, both for a request whose bytes were seen
before and for one read for the first time. ``make bench`` measures whole requests.
"""

import argparse
import asyncio
import json
import time

from gwcore.call import Call
from gwcore.catalog import Catalog
from gwcore.plugin import Setup
from gwcore.provider import Target
from gwcore.reply import Reply
from gwcore.resources import Lease, Resources
from gwcore.testing.fakes import upstream
from gwcore_cache.key import Keyer
from gwcore_cache.plugin import Cache

TARGET = Target(upstream("up"), "m")
SIZES = ((200, 200), (2_000, 2_000), (20_000, 20_000), (200_000, 2_000))


async def nowhere(_message):
    pass


def answer(size):
    message = {"role": "assistant", "content": "x" * size}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    ).encode()


def calls(size, count, *, same=True):
    dialect = next(d for d in Catalog().dialects() if d.name == "openai.chat")
    route = next(r for r in dialect.routes if r.operation == "chat")
    for n in range(count):
        turns = [{"role": ("user", "assistant")[at % 2], "content": "y" * 500} for at in range(max(1, size // 500))]
        document = {"model": "m", "max_tokens": 64, "messages": turns, "seed": 0 if same else n}
        call = Call(
            id="x",
            dialect=dialect,
            route=route,
            reply=Reply(nowhere),
            headers=[],
            raw=json.dumps(document, separators=(",", ":")).encode(),
            document=document,
            model="m",
        )
        call.targets = (TARGET,)
        yield call


def timed(work, count):
    began = time.process_time()
    for one in work:
        one()
    return (time.process_time() - began) / count * 1e6


async def hits(asked, answered, count):
    """CPU microseconds of one hit in the whole layer."""
    setup = Setup(
        "cache", Lease(Resources()), {"memory": "memory:"}, {}, dialects={d.name: d for d in Catalog().dialects()}
    )
    plugin = Cache(Cache.Config(), setup)
    body = answer(answered)

    async def inner(call):
        from gwcore.call import Attempt, Outcome
        from gwcore.usage import Usage

        attempt = Attempt(call, TARGET)
        attempt.usage = Usage(input=1, output=1)
        await call.reply.commit(200, [(b"content-type", b"application/json")])
        await call.reply.end(body)
        return Outcome(200, usage=attempt.usage)

    service = plugin.call_layer(inner)
    async with plugin.lifespan():
        made = list(calls(asked, count + 1))
        await service(made[0])
        await asyncio.sleep(0.01)
        began = time.process_time()
        for call in made[1:]:
            await service(call)
        spent = time.process_time() - began
        assert plugin.counts["hit"] == count, plugin.counts
    return spent / count * 1e6


def layer(count):
    print(f"{'request':>9} {'answer':>9} {'hit, µs CPU':>12} {'key again':>10} {'key anew':>10}")
    for asked, answered in SIZES:
        few = max(50, count * 2_000 // asked) if asked > 2_000 else count
        keyer = Keyer(b"index")
        again = timed((lambda c=c, keyer=keyer: keyer.key(c, "s") for c in list(calls(asked, few))), few)
        anew = timed((lambda c=c, keyer=keyer: keyer.key(c, "s") for c in list(calls(asked, few, same=False))), few)
        print(f"{asked:9} {answered:9} {asyncio.run(hits(asked, answered, few)):12.1f} {again:10.1f} {anew:10.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    layer(parser.parse_args().count)


if __name__ == "__main__":
    main()

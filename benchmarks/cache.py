"""What a hit of the cache costs: ``python benchmarks/cache.py``. It never asserts a time.

First the layer alone, in this process: CPU of one hit by the size of the request and of the answer, of a key whose bytes
were seen before and of one read for the first time. Then whole requests of ``gwcore run`` beside those of an empty stack;
a hit never reaches the mock upstream, which counts.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from bench import HERE, STACK, cpu, free_port, measure, start, wait_port

from gwcore.call import Call
from gwcore.catalog import Catalog
from gwcore.plugin import Setup
from gwcore.provider import Target
from gwcore.reply import Reply
from gwcore.resources import Lease, Resources
from gwcore.testing.fakes import upstream
from gwcore_cache.key import Keyer
from gwcore_cache.plugin import Cache

CACHED = STACK.replace("stack: []", "stack: [{{cache: {{ttl: 1h}}}}]")
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
    """CPU microseconds of one hit, all of the layer included."""
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


def gateway(seconds):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        mock = free_port()
        process = start(1, [sys.executable, str(HERE / "mock.py"), str(mock)])
        try:
            wait_port(mock, process)
            for name, text in (("empty stack, upstream asked", STACK), ("cache in memory, hits", CACHED)):
                file, port = Path(folder) / "stack.yaml", free_port()
                file.write_text(text.format(upstream=mock))
                command = [str(Path(sys.executable).with_name("gwcore")), "run", str(file), "--port", str(port)]
                before = cpu(process.pid)
                rows.append((measure(name, command, port, seconds, folder=folder), cpu(process.pid) - before))
        finally:
            process.kill()
            process.wait()
    print(f"\n{'':30} {'µs CPU/req':>11} {'req/s':>8} {'µs CPU/stream':>14} {'CPU s of the upstream':>22}")
    for row, upstream_cpu in rows:
        rate = row["json"]["requests"] / row["json"]["seconds"]
        print(
            f"{row['name']:30} {row['json']['cpu_us']:11.0f} {rate:8.0f} {row['sse']['cpu_us']:14.0f} {upstream_cpu:22.2f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--count", type=int, default=5000)
    said = parser.parse_args()
    layer(said.count)
    gateway(said.seconds)


if __name__ == "__main__":
    main()

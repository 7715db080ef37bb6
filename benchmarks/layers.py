"""``make bench-layers``: CPU of this process, in µs, added to a call by the router and by each home of the limits.

In process, with an inner side that answers at once; the cost of the same calls without the layer is subtracted. Redis
is a separate server; its CPU is not counted, but its client's is. It never asserts a time.
"""

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import asynccontextmanager

from gwcore.call import Outcome, Principal
from gwcore.dispatch import first_target
from gwcore.gateway import Gateway
from gwcore.server.run import quiet_collector
from gwcore.testing.fakes import call
from gwcore.testing.servers import redis
from gwcore.workers import COUNT_ENV, FOLDER_ENV

PRICES = "{m: {input: $1/M, output: $1/M}}"
UPSTREAMS = "".join(
    f"  {n}: {{provider: openai-compatible, base_url: 'http://127.0.0.1:9/v1', prices: {PRICES}}}\n" for n in "abc"
)
RULES = "[{per: key, requests: 100M/min}, {per: team, tokens: 1000000M/min}, {per: key, parallel: 60000}]"


async def answer(x):
    """The inner side of both rings."""
    made = getattr(x, "call", x)
    await made.reply.commit(200, [])
    await made.reply.end(b"{}")
    return Outcome(200)


def calls(gateway, count):
    who = Principal("key", team="team")
    made = []
    for _ in range(count):
        one = call("hello there, how are you today?", model="m")
        one.targets, one.principal = gateway.stack.models.resolve("m"), who
        made.append(one)
    return made


async def cpu(service, gateway, count, width):
    """µs of CPU per call: the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        made = calls(gateway, count)
        began = time.process_time()
        if width == 1:
            for one in made:
                await service(one)
        else:
            for n in range(0, count, width):
                await asyncio.gather(*map(service, made[n : n + width]))
        best = min(best, (time.process_time() - began) / count * 1e6)
    return best


@asynccontextmanager
async def opened(store, stack):
    head = f"gwcore: 1\nstores: {{hot: '{store}'}}\nupstreams:\n{UPSTREAMS}models: {{m: [a/m, b/m, c/m]}}\nstack:\n"
    gateway = Gateway(f"{head}{stack}\n")
    await gateway.startup()
    quiet_collector()  # as in the server
    try:
        yield gateway, gateway.stack.placed[0].plugin
    finally:
        await gateway.shutdown()


async def added(name, store, stack, layer, count, width=1):
    async with opened(store, stack) as (gateway, plugin):
        bare = first_target(answer) if layer == "router" else answer
        with_it = getattr(plugin, layer)(answer)
        base = await cpu(bare, gateway, count, width)
        whole = await cpu(with_it, gateway, count, width)
        print(f"{name:58} {whole - base:8.1f}")


async def main(count):
    print(f"{'':58} µs/call")
    for strategy in ("ordered", "shuffle", "least-busy", "fastest", "cheapest", "usage"):
        await added(
            f"router, three healthy targets, {strategy}",
            "memory:",
            f"  - fallback: {{strategy: {strategy}}}",
            "router",
            count,
        )
    await added(
        "router, deadline and first_token",
        "memory:",
        "  - fallback: {deadline: 60s, first_token: 20s}",
        "router",
        count,
    )
    stack = f"  - ratelimit: {{store: hot, rules: {RULES}, timeout: 5s}}"
    await added("limits: requests, tokens, parallel; memory", "memory:", stack, "call_layer", count)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[COUNT_ENV], os.environ[FOLDER_ENV] = "2", folder
        await added("limits: the same; shared by workers of one machine", "memory:", stack, "call_layer", count)
        del os.environ[COUNT_ENV], os.environ[FOLDER_ENV]
    with redis() as url:
        await added("limits: the same; redis, one call at a time", url, stack, "call_layer", count // 4)
        await added("limits: the same; redis, 50 calls at a time", url, stack, "call_layer", count // 4, 50)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4000)
    asyncio.run(main(parser.parse_args().calls))

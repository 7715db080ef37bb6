"""S2: whether the time of a 401 distinguishes an unknown id, a wrong secret and a revoked key. It never asserts a time.

    python benchmarks/refusals.py [--samples 20000] [--warm]

Requests go through the whole application in this process, in random order, one at a time. Without ``--warm``, the cache
of refused keys is cleared before each, so that the store is queried, as for an attacker who tries many keys. The store
is SQLite. A row is one pair: p50 of each, the difference of the means without the slowest and fastest tenth, as a share
of p50, and Welch's t of the same. The criterion is |t| < 4.5, or a difference below 2 % of p50; and one body for all.
"""

import argparse
import asyncio
import gc
import json
import random
import secrets
import statistics
import tempfile
import time
from itertools import combinations

from gwcore.gateway import Gateway
from gwcore.ports import AdminCall
from gwcore_auth.admin.bodies import DeleteKeys, NewKey
from gwcore_auth.keys import _check, _random, mint

ADMIN = secrets.token_hex(32)
BODY = json.dumps({"model": "house", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY)), (b"host", b"x")]


def wrong_secret_of(key):
    """A key with the same id and a valid checksum, but a wrong secret."""
    text = f"{key[:16]}{_random(43)}"
    return f"{text}_{_check(text)}"


async def refused(gateway, key):
    """Nanoseconds of one refusal, and its body without the request id."""
    messages, sent = [{"type": "http.request", "body": BODY, "more_body": False}], []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "client": ("127.0.0.1", 1),
        "headers": [*HEADERS, (b"authorization", f"Bearer {key}".encode())],
    }  # fmt: skip
    began = time.perf_counter_ns()
    await gateway(scope, receive, send)
    took = time.perf_counter_ns() - began
    assert sent[0]["status"] == 401, sent
    document = json.loads(sent[1]["body"])
    document.pop("request_id", None)
    return took, json.dumps(document)


def trimmed(values):
    cut = len(values) // 10
    return sorted(values)[cut : len(values) - cut]


def welch(a, b):
    spread = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    return (statistics.fmean(a) - statistics.fmean(b)) / spread**0.5


async def measure(gateway, samples, *, warm):
    auth = gateway.stack.placed[0].plugin
    routes = {route.path: route for route in auth.admin_routes()}
    admin = await auth.caller([(b"authorization", ADMIN.encode())], None, "/key/generate")
    made = [(await routes["/key/generate"].endpoint(AdminCall(admin, body=NewKey())))["key"] for _ in range(200)]
    gone = made[100:]
    await routes["/key/delete"].endpoint(AdminCall(admin, body=DeleteKeys(keys=gone)))
    unknown, wrong = [mint() for _ in range(100)], [wrong_secret_of(key) for key in made[:100]]
    kinds = {"unknown id": unknown, "wrong secret": wrong, "revoked": gone}
    times, bodies = {name: [] for name in kinds}, {name: set() for name in kinds}
    order = [name for name in kinds for _ in range(samples + 200)]
    random.shuffle(order)
    for name in order:
        if not warm:
            auth.cache.unknown.clear()
        took, body = await refused(gateway, random.choice(kinds[name]))
        times[name].append(took)
        bodies[name].add(body)
    assert len(set.union(*bodies.values())) == 1, "the bodies differ"
    return {name: values[200:] for name, values in times.items()}


async def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--samples", type=int, default=20_000)
    arguments.add_argument("--warm", action="store_true")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = (
            f"gwcore: 1\nstores: {{book: 'sqlite:///{folder}/book.db'}}\nupstreams: {{demo: {{provider: demo}}}}\n"
            f"models: {{house: demo/demo}}\nstack: [{{auth: {{admin_key: {ADMIN}, refresh: 1h}}}}]\n"
        )
        async with Gateway(text) as gateway:
            gc.freeze()
            times = await measure(gateway, given.samples, warm=given.warm)
    for (first, a), (second, b) in combinations(times.items(), 2):
        middle = statistics.median(a)
        short_a, short_b = trimmed(a), trimmed(b)
        apart = statistics.fmean(short_a) - statistics.fmean(short_b)
        share, t = 100 * abs(apart) / middle, welch(short_a, short_b)
        verdict = "ok" if abs(t) < 4.5 or share < 2 else "TOLD APART"
        print(
            f"{first:12} {second:12}  p50 {middle / 1000:7.1f} {statistics.median(b) / 1000:7.1f} us  "
            f"difference {share:5.2f} %  t {t:6.2f}  {verdict}"
        )


if __name__ == "__main__":
    asyncio.run(main())

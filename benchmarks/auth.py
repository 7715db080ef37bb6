"""Cost added by auth to a call with a cached key: CPU of both its layers, per call. It never asserts a time.

    python benchmarks/auth.py [--calls 100000]

The layers wrap an empty service in this process; a row is the median of five runs, minus the same loop without auth.
The store is SQLite, queried once per key. The last row is the cost of a key that is not in memory.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import time

from gwcore.call import Attempt, Outcome
from gwcore.ports import AdminCall
from gwcore.server.run import quiet_collector
from gwcore.testing.fakes import build, call, release
from gwcore_auth.admin.bodies import NewKey
from gwcore_auth.plugin import Auth

ADMIN = secrets.token_hex(32)
KEYS = {
    "a key": {},
    "a key of some models": {"models": ["fake/m", "gpt-*"]},
    "a key with an end, routes and networks": {
        "duration": "30d",
        "allowed_routes": ["/fake"],
        "allowed_networks": ["10.0.0.0/8"],
    },
    "a key, called for an end user": {},
}
_OUTCOME = Outcome(200, "stop")


async def inner(_attempt):
    return _OUTCOME


async def timed(service, made, calls):
    began = time.thread_time_ns()
    for _ in range(calls):
        await service(made)
    return (time.thread_time_ns() - began) / calls / 1000


async def median(service, made, calls):
    return statistics.median([await timed(service, made, calls // 5) for _ in range(5)])


def around(layers, made):
    target = made.targets[0]

    async def attempts(one):
        return await attempted(Attempt(one, target))

    attempted = layers.attempt_layer(inner) if layers else inner
    return layers.call_layer(attempts) if layers else attempts


async def cold(plugin, made, calls):
    service = around(plugin, made)
    began = time.thread_time_ns()
    wall = time.perf_counter_ns()
    for _ in range(calls):
        plugin.cache.clear()
        await service(made)
    return (time.thread_time_ns() - began) / calls / 1000, (time.perf_counter_ns() - wall) / calls / 1000


async def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--calls", type=int, default=100_000)
    calls = arguments.parse_args().calls
    plugin = build(Auth, {"admin_key": ADMIN, "store": "book"})
    async with plugin.lifespan():
        quiet_collector()  # as in the server
        admin = await plugin.caller([(b"authorization", ADMIN.encode())], None, "/key/generate")
        generate = next(route for route in plugin.admin_routes() if route.path == "/key/generate")
        rows = {}
        for name, fields in KEYS.items():
            body = NewKey(**fields)
            made = call(**({"user": "ann"} if "end user" in name else {}))
            made.credentials = ((await generate.endpoint(AdminCall(admin, body=body, given=frozenset(fields))))["key"],)
            made.client = "10.1.2.3"
            await asyncio.sleep(0.6)  # until the feed has announced it
            bare = await median(around(None, made), made, calls)
            rows[name] = await median(around(plugin, made), made, calls) - bare
        cpu, wall = await cold(plugin, made, min(calls, 500))
    await release(plugin)
    for name, cost in rows.items():
        print(f"{cost:7.2f} µs  {name}")
    print(f"{cpu:7.0f} µs  a key that is not in memory ({wall:.0f} µs with the store's own time)")
    print(json.dumps({"us": {name: round(cost, 3) for name, cost in rows.items()}}))


if __name__ == "__main__":
    asyncio.run(main())

"""Cost of budgets per call: ``python benchmarks/budget.py``. CPU is this process's own; it never asserts a time.

The layer wraps a service that answers at once, with five budgets on every call (global, team, user, key, model).
``empty`` is the same without the layer. Latency is that of ``ledger.hold`` and ``settle`` alone, with one client and
with 64.
"""

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from pathlib import Path

import structlog

from gwcore.call import Attempt, Outcome, Principal
from gwcore.plugin import Setup
from gwcore.prices import PriceCard
from gwcore.resources import Lease, Resources
from gwcore.server.run import quiet_collector
from gwcore.testing import fakes
from gwcore.usage import Usage
from gwcore_budget.ledger.ops import POSTED, Facts
from gwcore_budget.plugin import BudgetPlugin

RULES = [{"per": scope, "limit": "$9000000"} for scope in ("global", "team", "user", "key", "model")]
WHO = Principal(id="k", team="t", user="u")


def calls(count):
    made = [fakes.call(max_tokens=100) for _ in range(count)]
    for one in made:
        one.principal = WHO
    return made


async def whole_layer(service, made, at_once, ledger=None):
    """Microseconds of CPU (all threads, until everything is durable) and of wall time per call."""
    waiting = iter(made)

    async def client():
        for call in waiting:
            await service(Attempt(call, call.targets[0]))

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    if ledger is not None:
        ledger.escrow.pump()
        await ledger.group.flushed()
    return (time.process_time() - cpu) / len(made) * 1e6, (time.perf_counter() - wall) / len(made) * 1e6


async def latencies(plugin, count, at_once):
    """Microseconds of hold and settle, sorted."""
    ledger, taken = plugin.ledger, []
    attempt = Attempt(calls(1)[0], fakes.call().targets[0])
    budgets = plugin.accounts.of(attempt)
    numbers = iter(range(count))

    async def client():
        for n in numbers:
            began = time.perf_counter()
            ticket = await ledger.hold(
                f"{ledger.mode}{at_once}-{n}:1", 1000, budgets, Facts(f"{ledger.mode}{at_once}-{n}")
            )
            ledger.settle(ticket, POSTED, 500, basis="usage")
            taken.append((time.perf_counter() - began) * 1e6)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return sorted(taken)


async def measure(store, mode, count):
    setup = Setup("budget", Lease(Resources()), {"book": store}, {})
    journal = Path(tempfile.mkdtemp()) / "journals"
    config = {"store": "book", "mode": mode, "rules": RULES, "patience": "10s", "journal": journal}
    plugin = BudgetPlugin(BudgetPlugin.Config.model_validate(config), setup)
    card = PriceCard("m", {"input": ((0, 1_000_000_000),), "output": ((0, 2_000_000_000),)})
    plugin.setup.prices.card = lambda _target: card
    usage = Usage(input=20, output=30)

    async def inner(_attempt):
        return Outcome(200, usage=usage)

    async with plugin.lifespan():
        quiet_collector()  # as in the server
        service = plugin.attempt_layer(inner)
        await whole_layer(service, calls(200), 8)  # warm up grants, statements, caches
        rows = {"cpu": [], "wall": []}
        empty = [(await whole_layer(inner, calls(count), 64))[0] for _ in range(3)]
        for _ in range(5):
            cpu, wall = await whole_layer(service, calls(count), 64, plugin.ledger)
            rows["cpu"].append(cpu)
            rows["wall"].append(wall)
        one, many = await latencies(plugin, min(count, 500), 1), await latencies(plugin, count, 64)
    await fakes.release(plugin)
    p = lambda values, q: values[int(len(values) * q)]  # noqa: E731 - short
    print(f"| {store.partition(':')[0]} {mode} | {statistics.median(rows['cpu']) - min(empty):.0f} | {statistics.median(rows['wall']):.0f} "
          f"| {p(one, 0.5):.0f} / {p(one, 0.99):.0f} | {p(many, 0.5):.0f} / {p(many, 0.99):.0f} |", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--postgres", help="URL of a database that may be written to")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(
        "| home, mode | µs CPU per call | µs wall per call, 64 at once | µs hold + settle, one client p50 / p99 | 64 clients p50 / p99 |\n|---|--:|--:|--:|--:|"
    )
    stores = [f"sqlite:///{tempfile.mkdtemp()}/book.db"] + ([options.postgres] if options.postgres else [])
    for store in stores:
        for mode in ("escrow", "direct"):
            asyncio.run(measure(store, mode, options.count))


if __name__ == "__main__":
    main()

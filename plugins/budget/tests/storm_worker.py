"""The worker processes of a storm: many reserves at once over random scopes, each settled; prints what each was told as JSON."""

import asyncio
import random
from pathlib import Path

from budget_kit import budget

from gwcore.resources import Lease, Resources
from gwcore_budget.ledger.homes import home_of
from gwcore_budget.ledger.ledger import Ledger, Refused
from gwcore_budget.ledger.ops import POSTED, VOIDED, Facts
from tests.crew import crew


async def main(said, seed, begin):
    rng = random.Random(seed)
    lease = Lease(Resources())
    ledger = Ledger(
        home_of(lease.store(said["store"])), Path(said["folder"]), mode=said["mode"], chunk=1_000, patience=30
    )
    await ledger.start()
    await asyncio.to_thread(begin)
    budgets = [budget(name, limit) for name, limit in said["limits"].items()]
    told = {"spent": dict.fromkeys(said["limits"], 0), "admitted": 0, "refused": 0, "wrong": 0}
    gate = asyncio.Semaphore(said["at_once"])

    async def one(n):
        own = [one for one in budgets if rng.random() < said["share"]]
        amount = said["amount"] or rng.randint(1, 50)
        truth = amount if said["amount"] else rng.randint(0, amount)
        async with gate:
            try:
                ticket = await ledger.hold(f"s{seed}-{n}:1", amount, own, Facts(f"s{seed}-{n}"))
            except Refused as refused:
                told["refused"] += 1
                # a refusal names a scope that really had less
                told["wrong"] += not (refused.short.free < amount and refused.short.budget in own)
                return
            await asyncio.sleep(0)
            told["admitted"] += 1
            if rng.random() < 0.1:
                ledger.settle(ticket, VOIDED, basis="unavailable")
                return
            for each in own:
                told["spent"][each.id.partition(":total")[0]] += truth
            ledger.settle(ticket, POSTED, truth, basis="usage")

    await asyncio.gather(*(one(n) for n in range(said["count"])))
    await ledger.stop()
    await lease.release()
    return told


if __name__ == "__main__":
    crew(main)

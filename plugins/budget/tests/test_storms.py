"""B6, B15, B16: real processes on one store, answers that get lost, cold starts. The books are exact all the same."""

import asyncio
import json
import os
import random
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from budget_kit import accounts, budget, post, reserve
from test_ledger_machine import settle_twice

from gwcore_budget.ledger.books import Books
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.ledger import Ledger
from gwcore_budget.ledger.ops import POSTED, Facts
from gwcore_budget.ledger.verify import verify
from tests.crew import launch

HERE = Path(__file__).parent
LIMITS = {"global": 9_000, "team:t": 8_000, "user:u": 7_000, "key:k": 6_000, "model:m": 5_000}


async def storm(store, folder, mode, *, workers=4, **said):
    """Starts the workers, lets them loose at once, and adds up what they were told."""
    said = {"store": store, "folder": str(folder / "workers"), "mode": mode, "limits": LIMITS, "share": 0.6,
            "at_once": 100, "amount": 0, **said}  # fmt: skip
    process = await launch(HERE / "storm_worker.py", workers, said)
    async with asyncio.timeout(150):
        out, _ = await process.communicate(b"go\n")
    assert process.returncode == 0
    told = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    assert len(told) == workers
    spent = {name: sum(one["spent"][name] for one in told) for name in said["limits"]}
    return spent, *(sum(one[what] for one in told) for what in ("admitted", "refused", "wrong"))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", ["direct", "escrow"])
async def test_b6_any_of_five_scopes_may_bind(mode, home, store_url, tmp_path):
    spent, admitted, refused, wrong = await storm(store_url, tmp_path, mode, count=500)
    books = await accounts(home)
    assert {name: (row[0], row[1]) for name, row in ((k.removesuffix(":total"), v) for k, v in books.items())} == {
        name: (amount, 0) for name, amount in spent.items()
    }
    assert all(amount <= LIMITS[name] for name, amount in spent.items())
    assert admitted + refused == 2_000 and refused > 100 and wrong == 0
    report = await verify(home)
    assert report.problems == [] and report.over == 0
    states = await home.rows("SELECT count(*) FROM budget_hold WHERE state <> 2")
    assert states[0][0] <= admitted


@pytest.mark.timeout(180)
async def test_b16_a_cold_start_of_eight_on_a_spent_account(home, store_url, tmp_path):
    """40 of 50 are spent: eight processes that start at once see just that. Exactly the rest is admitted."""
    one = budget("global", 50)
    await home.transact([op for n in range(40) for op in (reserve(f"before{n}:1", 1, one), post(f"before{n}:1", 1))])
    spent, *_ = await storm(
        store_url, tmp_path, "direct", workers=8, limits={"global": 50}, share=1.1, count=8, amount=1, at_once=8
    )
    # some were voided again, and their money was free for others; nothing was inflated
    posted, pending, _ = (await accounts(home))["global:total"]
    assert (posted, pending) == (40 + spent["global"], 0) and posted <= 50
    assert posted >= 45
    assert (await verify(home)).problems == []


# ── B15 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class LosesAnswers:
    """Before a home: of every ten batches two are applied and not told, one is never applied."""

    def __init__(self, home, seed):
        self.home = home
        self.random = random.Random(seed)
        self.lost = 0

    async def transact(self, ops):
        fate = self.random.random() if ops else 1.0
        if fate < 0.1:
            raise StoreDown("timed out")
        answer = await self.home.transact(ops)
        if fate < 0.3:
            self.lost += 1
            raise StoreDown("applied, and the answer lost")
        return answer

    def __getattr__(self, name):
        return getattr(self.home, name)


async def many(ledger, count, at_once=100):
    """Holds that are posted; returns what they cost."""
    gate = asyncio.Semaphore(at_once)
    one = budget(limit=10**12)

    async def call(n):
        async with gate:
            ticket = await ledger.hold(f"r{n}:1", 100, [one], Facts(f"r{n}"))
            ledger.settle(ticket, POSTED, n % 100, basis="usage")
            return n % 100

    return sum(await asyncio.gather(*(call(n) for n in range(count))))


async def exact(ledger, cost, count):
    async with asyncio.timeout(30):
        while ledger.group.backlog:
            await asyncio.sleep(0.01)
    home = ledger.home
    assert (await accounts(home))["global:total"][:2] == (cost, 0)
    assert (await home.rows("SELECT count(*) FROM budget_hold WHERE state=1")) == [(count,)]
    assert (await home.rows("SELECT count(*) FROM budget_entry")) == [(2 * count,)]
    assert (await verify(home)).problems == []


@pytest.mark.parametrize("mode", ["direct"])
async def test_b15_answers_that_are_lost_double_nothing(mode, make_home, tmp_path):
    home = LosesAnswers(make_home(), 1)
    ledger = Ledger(home, tmp_path / "workers", mode=mode, patience=30)
    await ledger.start()
    cost = await many(ledger, 5_000)
    await exact(ledger, cost, 5_000)
    assert home.lost > 3
    await ledger.stop()


async def test_b15_negative_control_an_additive_counter(make_home, tmp_path, monkeypatch):
    monkeypatch.setattr(Books, "_settle", settle_twice(Books._settle))
    home = LosesAnswers(make_home(), 1)
    ledger = Ledger(home, tmp_path / "workers", mode="direct", patience=30)
    await ledger.start()
    cost = await many(ledger, 500, 20)
    with pytest.raises(AssertionError):
        await exact(ledger, cost, 500)
    monkeypatch.undo()
    await ledger.stop()


async def test_b15_negative_control_a_new_id_per_try(make_home, tmp_path, monkeypatch):
    from gwcore_budget.ledger.group import Group
    from gwcore_budget.ledger.ops import Reserve

    again = Group._again

    def renamed(self, batch, *, known):
        for entry in batch:
            if isinstance(entry.op, Reserve):
                entry.op.hold = f"again{os.urandom(6).hex()}:1"
        again(self, batch, known=known)

    monkeypatch.setattr(Group, "_again", renamed)
    ledger = Ledger(LosesAnswers(make_home(), 1), tmp_path / "workers", mode="direct", patience=30)
    await ledger.start()
    cost = await many(ledger, 500, 20)
    monkeypatch.undo()
    with pytest.raises((AssertionError, TimeoutError)):
        await exact(ledger, cost, 500)
    await ledger.stop()


class Cuts:
    """A proxy before PostgreSQL that cuts the line at a COMMIT: before it arrives, or before its answer returns."""

    def __init__(self, behind, seed):
        self.behind = behind
        self.random = random.Random(seed)
        self.cuts = 0
        self.armed = False

    async def serve(self, reader, writer):
        far_reader, far_writer = await asyncio.open_unix_connection(self.behind)
        back = asyncio.create_task(self._pipe(far_reader, writer))
        try:
            while data := await reader.read(65_536):
                fate = self.random.random() if self.armed and b"COMMIT" in data else 1.0
                if fate < 0.1:
                    self.cuts += 1
                    break
                far_writer.write(data)
                if fate < 0.3:
                    self.cuts += 1
                    back.cancel()
                    await asyncio.sleep(0.02)  # it is applied meanwhile
                    break
        except ConnectionError:
            pass
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for each in (writer, far_writer):
                each.transport.abort()

    async def _pipe(self, reader, writer):
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        finally:
            writer.transport.abort()


async def test_b15_a_line_that_is_cut_at_commits(make_home, postgres_url, tmp_path, request):
    if request.node.callspec.params["store_url"] == "sqlite":
        pytest.skip("there is no line to cut before a file")
    where = parse_qs(urlsplit(postgres_url).query)["host"][0]
    folder = Path("/tmp") / f"gwcore-cuts-{os.urandom(4).hex()}"  # a socket's path is short
    folder.mkdir()
    proxy = Cuts(f"{where}/.s.PGSQL.5432", 3)
    server = await asyncio.start_unix_server(proxy.serve, str(folder / ".s.PGSQL.5432"))
    home = make_home()
    home._how = {"dsn": postgres_url.replace(where, str(folder))}
    ledger = Ledger(home, tmp_path / "workers", mode="direct", patience=30)
    try:
        await ledger.start()
        proxy.armed = True
        cost = await many(ledger, 2_000, 50)
        proxy.armed = False
        await exact(ledger, cost, 2_000)
        assert proxy.cuts > 3
    finally:
        await ledger.stop()
        server.close()
        (folder / ".s.PGSQL.5432").unlink(missing_ok=True)
        folder.rmdir()

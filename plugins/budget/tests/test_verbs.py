"""``gwcore spend · budget · ledger``."""

import asyncio
import json
import secrets

import pytest
from budget_kit import accounts, budget, reap, reserve
from budget_stack import completion
from sqlalchemy import text
from test_admin import ADMIN, served
from typer.testing import CliRunner

from gwcore.resources import Lease, Resources
from gwcore.sql import Migrations, migrate, revision, writing
from gwcore.testing.upstream import FakeUpstream
from gwcore_budget import cli
from gwcore_budget.ledger.homes import LEDGER
from gwcore_budget.ledger.ops import POSTED, REAPED, Metered, Settle
from gwcore_budget.ledger.reconcile import BadBill, read_bills, reconcile
from gwcore_budget.ledger.verify import verify

APPS = {"spend": cli.spend, "budget": cli.budget, "ledger": cli.ledger}


def gwcore(app, *words, **environment):
    unset = {"GWCORE_URL": None, "GWCORE_ADMIN_KEY": None, "COLUMNS": "300"}
    done = CliRunner().invoke(APPS[app], [*map(str, words)], env={**unset, **environment})
    return done.exit_code, done.stdout, done.stderr


def printed(out):
    """The JSON of a verb; a gateway of the same process may have logged before it."""
    return json.loads(out[out.index("{\n") :])


async def verb(*words, **environment):
    return await asyncio.to_thread(gwcore, *words, **environment)


async def test_spend_and_reset_of_a_running_gateway(tmp_path):
    async with FakeUpstream() as up, served(up, f"sqlite:///{tmp_path}/book.db") as api:
        up.default = completion(1000)
        made = await api.post("/key/generate", {"key_alias": "ci", "max_budget": 1.1, "tags": ["blue"]})
        assert (await api.chat(made["key"])).status_code == 200
        assert (await api.chat(made["key"])).status_code == 429
        run = {"GWCORE_URL": api.url, "GWCORE_ADMIN_KEY": ADMIN}
        for words, part in (
            (("spend", "keys"), "ci"), (("spend", "keys", made["token"]), "1.00001"), (("spend", "models"), "up/m"),
            (("spend", "tags"), "blue"), (("spend", "days"), "1.00001"), (("spend", "logs"), "success"),
            (("spend", "teams"), "team_id"), (("spend", "users"), "user_id"), (("budget", "list"), "budget_id"),
        ):  # fmt: skip
            code, out, err = await verb(*words, **run)
            assert code == 0 and part in out, (words, out, err)
        code, out, _ = await verb("budget", "reset", "key", made["token"], **run)
        assert code == 0 and printed(out) == {"reset": [f"key:{made['token']}:total"]}
        assert (await api.chat(made["key"])).status_code == 200
        code, _, err = await verb("budget", "reset", "key", "nobody", **run)
        assert code == 1 and "nothing was spent" in err
        code, _, err = await verb("spend", "keys", GWCORE_URL=api.url)
        assert code == 1 and "GWCORE_ADMIN_KEY is not set" in err
        # the store itself, while the gateway serves
        file = tmp_path / "stack.yaml"
        file.write_text(f"gwcore: 1\nstores: {{book: 'sqlite:///{tmp_path}/book.db'}}\nupstreams: {{up: {{provider: demo}}}}\nstack: [{{budget: {{store: book}}}}]\n")  # fmt: skip
        code, out, err = await verb("ledger", "verify", file)
        assert code == 0, err
        assert printed(out)["holds"]["posted"] == 2 and printed(out)["problems"] == []


async def test_verify_fails_where_the_books_do_not_add_up(tmp_path, home, store_url):
    await home.transact([reserve("r1:1", 10, budget())])
    file = tmp_path / "stack.yaml"
    file.write_text(
        json.dumps(
            {
                "gwcore": 1,
                "stores": {"book": store_url},
                "upstreams": {"up": {"provider": "demo"}},
                "stack": [{"budget": {"store": "book"}}],
            }
        )
    )
    assert (await verb("ledger", "verify", file))[0] == 0
    await home.rows("UPDATE budget_account SET posted = 5 RETURNING id")
    code, out, _ = await verb("ledger", "verify", file)
    assert code == 1 and printed(out)["problems"]


async def test_reconciliation_corrects_the_worst_case_once(home):
    everything = budget(limit=10**12)
    ids = [f"{secrets.token_hex(4)}:1" for _ in range(4)]
    await home.transact([reserve(id_, 100, everything) for id_ in ids])
    used = Metered(200, input=5, output=6)
    await home.transact([*(reap(id_) for id_ in ids[:2]), Settle(ids[2], POSTED, 40, "usage", used)])
    await home.transact([Settle(ids[3], 3, basis="no usage", metered=used)])
    bills = read_bills(["id,cost", f"{ids[0]},0.000000060", f"{ids[1].partition(':')[0]},0.00000013", f"{ids[2]},1", f"{ids[3]},0", "nobody,1"])  # fmt: skip
    for again in range(2):
        deltas = await reconcile(home, bills)
        assert (deltas.corrected, deltas.kept, deltas.missing) == (
            (3, 1, ["nobody"]) if not again else (0, 4, ["nobody"])
        )
        assert await accounts(home) == {"global:total": (60 + 130 + 40 + 0, 0, 30)}
        if not again:
            ((key, sums),) = deltas.by.items()
            assert key[1] == "/" and sums == [300, 190]
    # what was used stays known, and is counted once
    assert (await home.rows("SELECT input, output FROM budget_hold WHERE id=$1", ids[3])) == [(5, 6)]
    assert (await home.rows("SELECT CAST(sum(input) AS BIGINT), CAST(sum(output) AS BIGINT) FROM budget_daily")) == [
        (10, 12)
    ]
    assert (await verify(home)).problems == []


async def test_a_bill_may_bear_the_vendors_id(home):
    ids = [f"{secrets.token_hex(4)}:1" for _ in range(4)]
    await home.transact([reserve(id_, 100, budget()) for id_ in ids])
    for id_, vendors in zip(ids, ("req_a", "req_b", "req_b", ids[0]), strict=True):
        await home.transact([Settle(id_, REAPED, basis="no usage", metered=Metered(200, upstream_id=vendors))])
    bills = {"req_a": 60, "req_b": 1, "req_c": 1}
    deltas = await reconcile(home, bills)
    assert (deltas.corrected, deltas.missing) == (1, ["req_b", "req_c"]), "which of two is not guessed"
    assert (await accounts(home))["global:total"][0] == 360
    assert (await reconcile(home, bills)).corrected == 0
    # our own id comes first, whatever an upstream calls another
    assert (await reconcile(home, {ids[0]: 1})).kept == 1
    assert (await verify(home)).problems == []


async def test_verbs_of_the_ledger_make_no_store(tmp_path, store_url):
    """A name that is spelled wrong is told, and nothing is there afterwards that was not there before."""
    lease = Lease(Resources())
    store = lease.store(store_url)
    file = tmp_path / "stack.yaml"
    file.write_text(f"gwcore: 1\nstores: {{book: '{store_url}'}}\nupstreams: {{up: {{provider: demo}}}}\nstack: [{{budget: {{store: book}}}}]\n")  # fmt: skip
    if store.scheme == "sqlite":
        code, _, err = await verb("ledger", "verify", file)
        assert code == 1 and "book.db: no such file" in err and not (tmp_path / "book.db").exists()
    async with writing(store) as sql:
        await sql.execute(text("CREATE TABLE other (id INTEGER)"))
    code, _, err = await verb("ledger", "verify", file)
    assert code == 1 and "has no ledger" in err and "Traceback" not in err
    assert await revision(store, LEDGER) is None
    await migrate(store, Migrations("budget", LEDGER.package, head="budget_0001"))
    code, _, err = await verb("ledger", "verify", file)
    assert code == 1 and "older release (budget_0001)" in err
    assert await revision(store, LEDGER) == "budget_0001", "others may use it: it is not brought up by a look at it"
    await migrate(store, LEDGER)
    code, out, err = await verb("ledger", "verify", file)
    assert code == 0 and printed(out)["problems"] == [], err
    await lease.release()


@pytest.mark.parametrize(
    "lines", [["cost"], ["id,cost", "a,x"], ["id,cost", ",1"], ["id,cost", "a,1", "a,1"], ["id,cost", "a,-1"]]
)
def test_bills_that_cannot_be_read(lines):
    with pytest.raises(BadBill):
        read_bills(lines)

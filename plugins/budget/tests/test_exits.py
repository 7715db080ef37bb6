"""B3, B4: whatever way a call ends, in whichever dialect: one terminal hold per attempt, and nothing stays held."""

import json
import math
from dataclasses import replace

import pytest
from budget_kit import eventually
from budget_stack import Anybody, Extra, completion, settled
from test_budget_dialects import CLIENTS, PRICE

from gwcore.catalog import Catalog
from gwcore.errors import BadRequest
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.outcomes import ending
from gwcore.plugin import Plugin
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream
from gwcore_budget.ledger.ledger import Ledger
from gwcore_budget.ledger.ops import POSTED, REAPED, VOIDED
from tests.stacks.raw import connect, exchange, request_bytes

BILL = 20 * 1_000 + 30 * 1_000_000
STREAM = chat_stream("a", "b", "c", "d", usage=(20, 30))


class Faulty(Plugin):
    """Fails inside the budget, where the client's text says so."""

    name = "faulty"
    inside = ("budget",)

    def attempt_layer(self, inner):
        async def faulty(attempt):
            if b"bug" in attempt.call.raw:
                raise RuntimeError("a bug of a plugin")
            if b"invalid" in attempt.call.raw:
                raise BadRequest("refused after the money was held")
            return await inner(attempt)

        return faulty


class More(Extra):
    @staticmethod
    @hookimpl
    def gwcore_plugins():
        return [Anybody, Faulty]


def stack(up, **budget):
    return json.dumps({
        "gwcore": 1, "stores": {"book": "memory:"}, "server": {"drain": "300ms"},
        "upstreams": {
            name: {"provider": "openai-compatible", "base_url": f"{url}/v1", "api_key": "sk-upstream-test-0000000", "prices": {"*": PRICE}, "timeout": {"first_byte": first_byte, "idle": "5s"}}
            for name, url, first_byte in (("up", up.url, "5s"), ("hasty", up.url, "300ms"), ("closed", "http://127.0.0.1:9", "5s"))
        },
        "stack": [{"anybody": {}}, {"budget": {"store": "book", "patience": "10s", "rules": [{"per": "global", "limit": "$1000"}], **budget}}, {"faulty": {}}],
    }, indent=1)  # fmt: skip


def wanted(dialect, *, stream, text="hi", model="up/m"):
    path, document, _ = CLIENTS[dialect]
    raw = json.dumps(document).replace('"hi"', json.dumps(text)).replace("up/m", model)
    document = json.loads(raw)
    path = path.replace("up/m", model)
    if dialect == "gemini.generate":
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse") if stream else path
        document["generationConfig"] = {"maxOutputTokens": 100}
    else:
        document |= {"stream": stream, "max_output_tokens" if "responses" in dialect else "max_tokens": 100}
    version = [("anthropic-version", "2023-06-01")] if dialect == "anthropic.messages" else []
    return path, json.dumps(document).encode(), [("authorization", "Bearer k"), *version]


async def abort(url, request, chunks, up):
    """The client leaves before the head (0), or after so many reads of the body."""
    before = len(up.requests)
    reader, writer = await connect(url)
    writer.write(request_bytes(url, "POST", *request))
    await up.received(before + 1)
    if chunks:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(chunks):
            await reader.read(64)
    writer.transport.abort()


def whole(**fields):
    return Answer(body=completion(30, prompt=20).body, **fields)


EXITS = {
    "answered": (whole(), False, {}, POSTED, BILL),
    "streamed": (Answer(body=STREAM), True, {}, POSTED, BILL),
    "no usage": (Answer(body=b'{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'), False, {}, REAPED, None),
    "400": (Answer(status=400, body=b'{"error":{"message":"no"}}'), False, {}, VOIDED, 0),
    "401": (Answer(status=401, body=b'{"error":{"message":"no"}}'), False, {}, VOIDED, 0),
    "429": (Answer(status=429, headers=[("retry-after", "1")], body=b'{"error":{"message":"no"}}'), False, {}, VOIDED, 0),
    "503": (Answer(status=503, body=b"down"), True, {}, VOIDED, 0),
    "time-out": (Answer(delay_head=math.inf), False, {"model": "hasty/m"}, REAPED, None),
    "reset for a head": (Answer(reset=True), False, {}, REAPED, None),
    "cut in the middle": (Answer(body=STREAM, cut_after=400), True, {}, REAPED, None),
    "nobody listens": (whole(), False, {"model": "closed/m"}, VOIDED, 0),
    "a plugin's bug": (whole(), False, {"text": "bug"}, REAPED, None),
    "a plugin refuses": (whole(), False, {"text": "invalid"}, VOIDED, 0),
}  # fmt: skip


async def last_hold(plugin, count):
    """The ledger has so many holds, all ended, and nothing is held by anybody."""
    await settled(plugin)
    home = plugin.ledger.home
    rows = await home.rows("SELECT state, settled, amount FROM budget_hold ORDER BY created, id")
    assert len(rows) == count and 0 not in {row[0] for row in rows}
    assert plugin.ledger.open == {} and plugin._draining == 0
    if plugin.ledger.mode == "direct":
        assert (await home.rows("SELECT pending FROM budget_account")) == [(0,)]
    return (
        await home.rows("SELECT state, settled, amount FROM budget_hold ORDER BY ended DESC, created DESC LIMIT 1")
    )[0]


@pytest.mark.parametrize("dialect", CLIENTS)
@pytest.mark.parametrize("mode", ["direct", "escrow"])
async def test_b3_every_exit_ends_its_hold(dialect, mode):
    async with FakeUpstream() as up:
        gateway = Gateway(stack(up, mode=mode) + "\n", catalog=Catalog(More))
        async with running(gateway) as url:
            plugin = next(p.plugin for p in gateway.stack.placed if p.name == "budget")
            for count, (name, (answer, stream, fields, state, bill)) in enumerate(EXITS.items(), 1):
                up.default = answer
                await exchange(url, "POST", *wanted(dialect, stream=stream, **fields))
                row = await last_hold(plugin, count)
                assert (row[0], row[1]) == (state, row[2] if bill is None else bill), name
            count = len(EXITS)
            for chunks in (0, 1, 3):  # drained: the bill arrives all the same
                count += 1
                up.default = Answer(body=STREAM, delay_head=0.1, gap=0.02)
                await abort(url, wanted(dialect, stream=True), chunks, up)
                await eventually(lambda: plugin.counts["drained"] == count - len(EXITS))
                assert (await last_hold(plugin, count))[:2] == (POSTED, BILL)
            # the gateway goes while a call is under way
            up.default = Answer(delay_head=0.25, body=STREAM, gap=5)
            client = await begin(url, wanted(dialect, stream=True), up)
            ledger = plugin.ledger
        client.close()
        assert ledger.open == {} and ledger.group.backlog == 0


async def test_the_vendors_id_is_kept_of_what_he_may_have_to_tell():
    headers = [("x-request-id", "req_vendor")]
    async with FakeUpstream() as up:
        gateway = Gateway(stack(up) + "\n", catalog=Catalog(More))
        async with running(gateway) as url:
            plugin = next(p.plugin for p in gateway.stack.placed if p.name == "budget")
            for count, (name, kept) in enumerate(
                {"no usage": "req_vendor", "answered": None, "time-out": None}.items(), 1
            ):
                answer, stream_, fields, state, _ = EXITS[name]
                up.default = replace(answer, headers=headers)
                await exchange(url, "POST", *wanted("openai.chat", stream=stream_, **fields))
                assert (await last_hold(plugin, count))[0] == state
                rows = await plugin.ledger.home.rows("SELECT upstream_id FROM budget_hold ORDER BY created, id")
                assert rows[-1] == (kept,), name


async def begin(url, request, up):
    before = len(up.requests)
    _, writer = await connect(url)
    writer.write(request_bytes(url, "POST", *request))
    await up.received(before + 1)
    return writer


@pytest.mark.parametrize("variant", ["goes on", "never says usage", "ends at once"])
@pytest.mark.parametrize("policy", ["drain", "cancel"])
async def test_b4_a_client_that_leaves_is_never_billed_less_than_the_gateway(variant, policy):
    """Drained and told: the bill. Otherwise the worst case. Never less."""
    body = chat_stream("a", "b", "c", "d", usage=None if variant == "never says usage" else (20, 30))
    size = sum(map(len, body))
    async with FakeUpstream() as up:
        gateway = Gateway(stack(up, mode="direct", on_disconnect=policy) + "\n", catalog=Catalog(More))
        async with running(gateway) as url:
            plugin = next(p.plugin for p in gateway.stack.placed if p.name == "budget")
            for count, chunks in enumerate((0, 1, 5, 9), 1):
                cut = size // 2 if variant == "ends at once" else None
                up.default = Answer(body=body, delay_head=0.05, gap=0.05, cut_after=cut)
                await abort(url, wanted("openai.chat", stream=True), chunks, up)
                await eventually(lambda: not plugin.ledger.open and plugin.ledger.group.commits, 10)
                state, amount, held = await last_hold(plugin, count)
                if policy == "drain" and variant == "goes on":
                    assert (state, amount) == (POSTED, BILL)
                else:
                    assert state == REAPED and amount == held
                assert amount >= BILL


async def test_b4_so_many_answers_are_read_without_a_client_and_no_more():
    async with FakeUpstream() as up:
        gateway = Gateway(stack(up, mode="direct", drain_most=3) + "\n", catalog=Catalog(More))
        async with running(gateway) as url:
            plugin = next(p.plugin for p in gateway.stack.placed if p.name == "budget")
            up.default = Answer(body=STREAM, delay_head=0.2, gap=0.1)
            for _ in range(5):
                await abort(url, wanted("openai.chat", stream=True), 0, up)
            await eventually(lambda: plugin.counts["drains_refused"] == 2)
            await eventually(lambda: not plugin.ledger.open)
            await settled(plugin)
            states = [row[0] for row in await plugin.ledger.home.rows("SELECT state FROM budget_hold ORDER BY state")]
            assert states == [POSTED] * 3 + [REAPED] * 2


async def test_b3_negative_control_settled_only_where_all_went_well(monkeypatch):
    settle = Ledger.settle

    def only_success(self, hold, state, *rest):
        if state == POSTED:
            settle(self, hold, state, *rest)

    monkeypatch.setattr(Ledger, "settle", only_success)
    async with FakeUpstream() as up:
        gateway = Gateway(stack(up, mode="direct") + "\n", catalog=Catalog(More))
        async with running(gateway) as url:
            plugin = next(p.plugin for p in gateway.stack.placed if p.name == "budget")
            up.default = Answer(status=503)
            await exchange(url, "POST", *wanted("openai.chat", stream=False))
            assert len(plugin.ledger.open) == 1
            monkeypatch.undo()


async def test_b4_negative_control_a_cancel_that_is_not_billed(monkeypatch):
    from gwcore_budget import plugin as module

    def free(error, **fields):
        found = ending(error, **fields)
        return found if found.kind != "left" else found.__class__("left", "void", "no", "none")

    monkeypatch.setattr(module, "ending", free)
    async with FakeUpstream() as up:
        gateway = Gateway(stack(up, mode="direct", on_disconnect="cancel") + "\n", catalog=Catalog(More))
        async with running(gateway) as url:
            plugin = next(p.plugin for p in gateway.stack.placed if p.name == "budget")
            up.default = Answer(body=STREAM, delay_head=0.05, gap=0.05)
            await abort(url, wanted("openai.chat", stream=True), 1, up)
            await eventually(lambda: not plugin.ledger.open)
            assert (await last_hold(plugin, 1))[1] < BILL

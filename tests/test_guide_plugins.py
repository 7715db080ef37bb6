"""What the guide gives to authors of plugins runs, as it stands there."""

import re
from pathlib import Path
from types import SimpleNamespace

import httpx2
import orjson
import pytest
from pydantic import BaseModel, ConfigDict
from typer.testing import CliRunner

from gwcore.catalog import Catalog
from gwcore.errors import StoreUnavailable
from gwcore.gateway import Gateway
from gwcore.plugin import Plugin
from gwcore.resources import Lease, Resources
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.transport import Tls

GUIDE = Path(__file__).parent.parent / "docs/guide"
HI = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
WHOLE = orjson.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    }
)


def named(page, mark, **given):
    """The names of the one block of a guide that has this in it."""
    blocks = re.findall(r"```python\n(.*?)```", (GUIDE / page).read_text(), re.DOTALL)
    [code] = [code for code in blocks if mark in code]
    exec(code.replace("gwcore_stamp", "guide_stamp"), given)  # other tests make a package of that name
    return given


class Offers:
    """A distribution of these plugins, providers and dialects."""

    def __init__(self, plugins=(), providers=(), dialects=()):
        self.gwcore_plugins = lambda: list(plugins)
        self.gwcore_providers = lambda: list(providers)
        self.gwcore_dialects = lambda: list(dialects)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(body=b'{"allowed": true}'), True),
        (Answer(body=b'{"allowed": false}'), False),
        (Answer(500, body=b"{}"), None),
        (Answer(body=b"<html>"), None),
        (Answer(body=b"[]"), None),
        (Answer(raw=b""), None),
    ],
)
async def test_another_service_is_asked(answer, said):
    allowed = named("write-a-layer.md", "async def allowed")["allowed"]
    lease = Lease(Resources())
    async with FakeUpstream(answer) as up:
        plugin = SimpleNamespace(config=SimpleNamespace(url=f"{up.url}/ask"), transport=lease.transport(Tls()))
        try:
            if said is None:
                with pytest.raises(StoreUnavailable):
                    await allowed(plugin, ["Hi"])
            else:
                assert await allowed(plugin, ["Hi"]) is said
        finally:
            await lease.release()
        assert (up.requests[0].target, up.requests[0].document) == ("/ask", {"texts": ["Hi"]})


async def test_who_calls_is_told_by_a_header_and_its_policies_bind(tmp_path):
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        proxies: list[str] = ["127.0.0.1"]

    sso = named("write-a-layer.md", "class Sso", Plugin=Plugin)["Sso"]
    sso.Config = Config
    stack = (
        'gwcore: 1\nupstreams: {{o: {{provider: openai-compatible, base_url: "{url}/v1", '
        "prices: {{m: {{input: $1000/M, output: $2000000/M}}}}}}}}\n"
        'models: {{m: o/m}}\nstores: {{book: "sqlite:///{path}/book.db"}}\n'
        "stack: [{{sso: {{}}}}, {{ratelimit: {{}}}}, {{budget: {{}}}}]\n"
    )
    async with FakeUpstream() as up:
        up.default = Answer(body=WHOLE)
        gateway = Gateway(stack.format(url=up.url, path=tmp_path), catalog=Catalog(Offers([sso])))
        async with running(gateway) as url, httpx2.AsyncClient(base_url=url) as http:

            async def ask(**who):
                headers = {f"x-auth-request-{name}": value for name, value in who.items()}
                return await http.post("/v1/chat/completions", json=HI, headers=headers)

            assert (await ask()).status_code == 401
            first = await ask(email="ann", groups="blue")
            assert (first.status_code, first.headers["x-ratelimit-limit-requests"]) == (200, "60")
            known = await ask(email="ann", groups="red")
            assert known.headers["x-ratelimit-remaining-requests"] == "58"  # one key, whatever its team
            over = [await ask(email="bob", groups="blue") for _ in range(3)]
            assert over[-1].status_code == 429 and "the budget of team blue" in over[-1].text


def test_a_verb_has_the_name_that_the_guide_gives_it():
    app = named("write-a-layer.md", "gwcore_commands")["app"]
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "list" in shown and "What was stamped." in shown


async def test_tables_of_a_plugin(tmp_path, monkeypatch):
    package = tmp_path / "guide_stamp" / "migrations"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "__init__.py").touch()
    (package / "stamp_0001.py").write_text(
        'from alembic import op\nrevision = "stamp_0001"\ndown_revision = None\n\n\ndef upgrade():\n'
        '    op.execute("CREATE TABLE stamp_used (session TEXT PRIMARY KEY, used INTEGER NOT NULL)")\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    guide = named("write-a-layer.md", "TABLES = Migrations")
    lease = Lease(Resources())
    plugin = SimpleNamespace(store=lease.store(f"sqlite:///{tmp_path}/stamp.db"))
    try:
        for _ in range(2):
            async with guide["lifespan"](plugin):
                pass
        assert [await guide["take"](plugin, "s", 2) for _ in range(3)] == [True, True, False]
    finally:
        await lease.release()


class Odd:
    """Serves the guide's dialect at an address of its own."""

    name, base_url, env_key, Options = "odd", None, None, None

    def address(self, upstream, dialect, operation, model, params, *, stream):
        if (dialect, operation) != ("odd.chat", "chat"):
            return None
        return f"{upstream.base_path}/{model}:{'flow' if stream else 'run'}", False

    def credential(self, api_key, options):
        return []

    def transport(self, gateway, api_key, options):
        return gateway

    def quirks(self, upstream, model):
        return frozenset()


LINES = [{"word": "Hel"}, {"word": "lo"}, {"end": "END"}, {"tally": {"in": 7, "out": 3}}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/ndjson", "application/jsonl; charset=utf-8"])
async def test_a_vendor_whose_json_is_its_own(path, kind):
    guide = named("providers.md", "class OddChat")
    flow = [orjson.dumps(line) + b"\n" for line in LINES]
    run = {"id": "1", "words": "Hello", "end": "END", "tally": {"in": 7, "out": 3}}
    answers = [
        Answer(body=orjson.dumps(run)),
        Answer(headers=[("content-type", kind)], body=flow),
        Answer(headers=[("content-type", kind)], body=flow[:2]),
        Answer(400, body=b"no such turn"),
    ]
    async with FakeUpstream(*answers) as up:
        stack = f'gwcore: 1\nupstreams: {{odd: {{provider: odd, base_url: "{up.url}"}}}}\nmodels: {{m: odd/odd-1}}\nstack: []\n'
        gateway = Gateway(stack, catalog=Catalog(Offers([], [Odd()], guide["gwcore_dialects"]())))
        async with running(gateway) as url, httpx2.AsyncClient(base_url=url) as http:
            whole = await http.post(path, json={**HI, "temperature": 1})
            assert (whole.status_code, whole.headers["x-gwcore-dropped"]) == (200, "temperature")
            assert '"Hello"' in whole.text and up.requests[0].target == "/odd-1:run"
            assert up.requests[0].document == {"turns": [{"who": "user", "says": "Hi"}], "cap": 9}
            told = await http.post(path, json={**HI, "stream": True})
            assert told.status_code == 200 and '"Hel"' in told.text and "error" not in told.text
            cut = await http.post(path, json={**HI, "stream": True})
            assert "before the answer was complete" in cut.text
            refused = await http.post(path, json=HI)
            assert refused.status_code == 400 and "no such turn" in refused.text


async def test_a_guard_looks_at_the_words_that_tools_returned():
    guide = named("write-a-layer.md", "not allow this topic")

    class Guard(Plugin):
        name = "guard"
        forbidden, secret = re.compile("bomb"), re.compile(rb"^$")
        call_layer = guide["call_layer"]

    used = {"type": "tool_use", "id": "t1", "name": "read", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a bomb"}]}
    stack = "gwcore: 1\nupstreams: {demo: {provider: demo}}\nmodels: {m: demo/demo}\nstack: [{guard: {}}]\n"
    async with running(Gateway(stack, catalog=Catalog(Offers([Guard])))) as url, httpx2.AsyncClient() as http:
        for said, status in (
            ([], 200),
            ([{"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}], 403),
        ):
            body = {**HI, "messages": [*HI["messages"], *said]}
            assert (await http.post(f"{url}/v1/messages", json=body)).status_code == status

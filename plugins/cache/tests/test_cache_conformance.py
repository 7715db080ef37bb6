"""The plugin kit on every home, and the admin API."""

import asyncio
import json
import secrets
from pathlib import Path

import httpx2
import pytest
from cache_world import WIRES, Extra, stack, state, until
from pydantic import ValidationError
from typer.testing import CliRunner

from gwcore.catalog import Catalog
from gwcore.errors import AssemblyError
from gwcore.gateway import Gateway
from gwcore.plugin import Setup
from gwcore.resources import Lease, Resources
from gwcore.testing.conformance import PluginConformance
from gwcore.testing.fakes import Inner, build, call
from gwcore.testing.server import running
from gwcore.testing.upstream import FakeUpstream
from gwcore_cache.cli import cache
from gwcore_cache.config import CacheConfig
from gwcore_cache.plugin import Cache

README = Path(__file__).parent.parent / "README.md"


class TestMemory(PluginConformance):
    kind = Cache
    readme = README
    config = {"rules": [{"models": ["fake/*"], "ttl": 60}], "stale_while_revalidate": "1m", "volatile": ["x+"]}

    def held(self, plugin):
        return len(plugin.flights)


class Stored(PluginConformance):
    kind = Cache
    url = ""

    def held(self, plugin):
        # a turn is given back behind the call's back
        return len(plugin.flights) + max(0, plugin.home.health().get("asking", 0) - len(plugin._writes))

    def run(self, test):
        import gwcore.testing.conformance as kit

        def build_on(kind, config):
            setup = Setup(kind.name, Lease(Resources()), {"hot": self.url, "memory": "memory:"}, {})
            return kind(kind.Config.model_validate({"store": "hot", "timeout": 5, **config}), setup)

        before, kit.build = kit.build, build_on
        try:
            super().run(test)
        finally:
            kit.build = before

    @pytest.mark.parametrize("stream", [False, True])
    def test_cancelled_at_every_await_nothing_stays_held(self, stream):
        """As the kit's, but a store answers when it answers: cancel after some milliseconds, more each time."""

        async def test(plugin):
            service = self.service(plugin, Inner())
            for k in range(40):
                task = asyncio.ensure_future(service(call(stream=stream, seed=k // 8)))
                await asyncio.sleep(k % 8 * 0.0004)
                task.cancel()
                await asyncio.wait({task})
                await until(lambda: self.held(plugin) == 0)

        self.run(test)


@pytest.fixture(scope="module")
def _redis(redis_url):
    TestRedis.url = redis_url


@pytest.fixture(autouse=True)
def _sqlite(tmp_path):
    TestSqlite.url = f"sqlite:///{tmp_path}/cache.db"


@pytest.mark.usefixtures("_redis")
class TestRedis(Stored):
    """Redis."""


class TestSqlite(Stored):
    """SQLite."""


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0}, {"scope": "tenant"}, {"seal": "short"}, {"seal": "changeme-changeme-changeme-changeme"}, {"volatile": ["("]},
        {"namespace": "a b"}, {"rules": [{"ttl": "soon"}]}, {"rules": [{"modles": ["x"]}]}, {"jitter": 1}, {"operations": ["files"]},
        {"lease": "100ms"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValidationError):
        CacheConfig.model_validate(wrong)


async def test_it_stands_behind_limits_and_before_money():
    text = json.loads(stack({"a": "http://127.0.0.1:1"}, WIRES["openai.chat"]))
    text["stack"] = [{"cache": {}}, {"ratelimit": {}}]
    text["watch"] = []
    with pytest.raises(AssemblyError, match="cache must come after ratelimit"):
        await Gateway(json.dumps(text, indent=1)).startup()


def test_explain():
    plugin = build(Cache, {"rules": [{"models": ["off*"], "mode": "off"}]})
    assert "shared by organisation, fresh for 600 s" in plugin.explain(call())
    assert plugin.explain(call(model="off/x")) == "not for the cache"


def test_nothing_happens_to_what_is_not_cached():
    async def run():
        plugin, inner = build(Cache), Inner()
        made = call(conversation="c")
        await plugin.call_layer(inner)(made)
        assert made.cache.status == "bypass"
        assert not made.edited

    asyncio.run(run())


# ── the admin API ────────────────────────────────────────────────────────────────────────────────────────────────────

ADMIN = secrets.token_hex(32)


class Admin:
    def __init__(self, url, http):
        self.url, self.http = url, http

    async def chat(self, key, text="hi", model="m", **headers):
        body = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": text}]}
        return await self.http.post(
            "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}", **headers}
        )

    async def post(self, path, body=None, key=ADMIN):
        return await self.http.post(path, json=body, headers={"authorization": f"Bearer {key}"})

    async def key(self, **about):
        return (await self.post("/key/generate", about)).json()["key"]


@pytest.fixture
async def api(tmp_path):
    async with FakeUpstream() as up:
        up.default = WIRES["openai.chat"].answer(False)
        text = json.loads(stack({"a": up.url}, WIRES["openai.chat"], models={"m": ["a/m"], "n": ["a/n"]}, first=None))
        text["stores"] = {"book": f"sqlite:///{tmp_path}/book.db"}
        text["stack"].insert(0, {"auth": {"store": "book", "admin_key": ADMIN}})
        gateway = Gateway(json.dumps(text, indent=1), catalog=Catalog(Extra()), serve_admin=True)
        async with running(gateway) as url, httpx2.AsyncClient(base_url=url) as http:
            made = Admin(url, http)
            made.up, made.gateway = up, gateway
            made.plugin = next(p.plugin for p in gateway.stack.placed if p.name == "cache")
            yield made


async def fill(api):
    """Two organisations, one question each in two models; who holds what."""
    keys = {}
    for name in ("o1", "o2"):
        await api.post("/organization/new", {"organization_id": name, "organization_alias": name})
        keys[name] = await api.key(organization_id=name)
        for model in ("m", "n"):
            assert (await api.chat(keys[name], model=model, **{"x-gwcore-tags": f"{name}-{model}"})).status_code == 200
    for _ in range(100):
        if not api.plugin._writes:
            break
        await asyncio.sleep(0.01)
    return keys


async def found(api, keys):
    hits = set()
    for name, key in keys.items():
        for model in ("m", "n"):
            headers = {"x-gwcore-tags": f"{name}-{model}", "cache-control": "only-if-cached"}
            if (await api.chat(key, model=model, **headers)).status_code == 200:
                hits.add(f"{name}-{model}")
    return hits


EVERYTHING = {"o1-m", "o1-n", "o2-m", "o2-n"}


async def test_two_real_keys_of_two_organisations(api):
    keys = await fill(api)
    assert len(api.up.requests) == 4
    assert await found(api, keys) == EVERYTHING
    sister = await api.key(organization_id="o1")
    seen = await api.chat(sister, **{"x-gwcore-tags": "o1-m"})
    assert seen.headers["x-gwcore-cache"] == "hit"
    limited = await api.key(organization_id="o1", models=["n"])
    assert (
        await api.chat(limited, **{"x-gwcore-tags": "o1-m"})
    ).status_code == 403  # a hit needs the model's permission, too


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ({"model": "m"}, {"o1-n", "o2-n"}),
        ({"tenant": "organisation:o1"}, {"o2-m", "o2-n"}),
        ({"tag": "o2-n"}, EVERYTHING - {"o2-n"}),
        ({"tenant": "organisation:o1", "model": "m"}, EVERYTHING - {"o1-m"}),
        ({"everything": True}, set()),
    ],
)
async def test_purge(api, body, left):
    keys = await fill(api)
    purged = await api.post("/cache/purge", body)
    assert purged.json() == {"purged": 4 - len(left)}
    assert await found(api, keys) == left


async def test_purge_by_key_as_litellm_has_it(api):
    keys = await fill(api)
    entry = next(iter(api.plugin.home._entries))
    assert (await api.post("/cache/delete", {"keys": [entry.hex()]})).json() == {"status": "success", "deleted": 1}
    assert len(await found(api, keys)) == 3
    assert (await api.post("/cache/flushall")).json() == {"status": "success"}
    assert await found(api, keys) == set()
    ping = await api.http.get("/cache/ping", headers={"authorization": f"Bearer {ADMIN}"})
    assert (ping.json()["status"], ping.json()["cache_type"]) == ("healthy", "memory")
    info = await api.http.get("/cache/info", headers={"authorization": f"Bearer {ADMIN}"})
    assert info.json()["entries"] == 0


@pytest.mark.parametrize("body", [{}, {"keys": ["xy"]}, {"modell": "m"}])
async def test_a_purge_of_nothing_in_particular_is_refused(api, body):
    assert (await api.post("/cache/purge", body)).status_code in {400, 422}


async def test_only_the_admin_purges(api):
    key = await api.key()
    for path in ("/cache/purge", "/cache/delete", "/cache/flushall"):
        assert (await api.post(path, {"everything": True}, key=key)).status_code == 403
        assert (await api.post(path, {"everything": True}, key="sk-nobody")).status_code == 401
    assert (await api.http.get("/cache/ping", headers={"authorization": f"Bearer {key}"})).status_code == 403
    assert state(await api.chat(key)) == "miss"


async def test_the_command_line(api):
    keys = await fill(api)

    async def run(*said, **more):
        env = {"GWCORE_ADMIN_KEY": ADMIN, "GWCORE_URL": api.url, **more}
        done = await asyncio.to_thread(CliRunner().invoke, cache, said, env=env)
        return done.exit_code, done.output

    code, said = await run("purge", "--model", "m")
    assert (code, '"purged": 2' in said) == (0, True)  # the gateway logs into the same output
    assert await found(api, keys) == {"o1-n", "o2-n"}
    assert '"entries": 2' in (await run("info"))[1]
    code, said = await run("purge")
    assert (code, "name what to purge" in said) == (1, True)
    assert (await run("info", GWCORE_ADMIN_KEY=""))[0] == 1

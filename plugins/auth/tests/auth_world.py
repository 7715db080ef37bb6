"""A whole gateway with auth on a port, its admin API, beside the plugins whose policies it keeps."""

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import ClassVar

import httpx2
import pytest

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

ADMIN = secrets.token_hex(32)
CHAT = b'{"id":"1","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hi"}}]}'


class Sees(Plugin):
    """Remembers the principals that pass, and holds calls up for as long as a test wants."""

    name = "sees"
    seen: list = []
    ended: list = []
    open: ClassVar[asyncio.Event | None] = None

    def call_layer(self, inner):
        async def sees(call):
            self.seen.append(call.principal)
            if Sees.open is not None:
                await Sees.open.wait()
            return await inner(call)

        return sees

    @hookimpl
    def call_ended(self, call, outcome):
        self.ended.append(call.principal)


class Installed:
    @hookimpl
    def gwcore_plugins(self):
        return [Sees]


class Api:
    """A client of one gateway."""

    def __init__(self, url: str, gateway: Gateway, http: httpx2.AsyncClient) -> None:
        self.url = url
        self.gateway = gateway
        self.http = http
        self._inside = httpx2.AsyncClient(transport=httpx2.ASGITransport(gateway), trust_env=False)  # opens nothing

    @property
    def auth(self):
        return next(p.plugin for p in self.gateway.stack.placed if p.name == "auth")

    async def raw(self, method, path, *, key=ADMIN, json=None, headers=None, http=None, **query):
        sent = {**({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        return await (http or self.http).request(method, self.url + path, json=json, params=query or None, headers=sent)

    async def near(self, method, path, **options):
        """Past the socket: for thousands of requests that ask about the policy alone."""
        return await self.raw(method, path, http=self._inside, **options)

    async def ask(self, method, path, *, status=200, **options):
        answer = await self.raw(method, path, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def post(self, path, body=None, **options):
        return await self.ask("POST", path, json=body or {}, **options)

    async def get(self, path, **options):
        return await self.ask("GET", path, **options)

    async def key(self, **body):
        return (await self.post("/key/generate", body))["key"]

    async def chat(self, key, model="m", *, headers=None, **body):
        document = {"model": model, "messages": [{"role": "user", "content": "hi"}], **body}
        return await self.raw("POST", "/v1/chat/completions", key=key, json=document, headers=headers)


def stack_text(upstream, *, store=None, auth="", extra="", models=""):
    stores = f"stores: {{book: '{store}'{extra}}}\n" if store else ""
    return (
        f"gwcore: 1\n{stores}"
        f"upstreams:\n  up: {{provider: openai-compatible, base_url: '{upstream}/v1', api_key: up-key-canary, prices: {{'*': free}}}}\n"
        f"  other: {{provider: openai-compatible, base_url: '{upstream}/v1', api_key: up-key-canary, prices: {{'*': free}}}}\n"
        f"models: {{m: up/m, n: up/n, {models}'*': pass}}\n"
        f"stack:\n  - auth: {{admin_key: {ADMIN}, {auth}}}\n  - ratelimit\n  - budget: {{patience: 5s}}\n  - sees\n"
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/book.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/book.db"


@pytest.fixture
async def upstream():
    async with FakeUpstream() as up:
        up.default = Answer(body=CHAT)
        yield up


@asynccontextmanager
async def serving(text, **options):
    gateway = Gateway(text, catalog=Catalog(Installed()), serve_admin=True, **options)
    await gateway.startup()  # here, so that a failure is raised
    async with running(gateway) as url, httpx2.AsyncClient(timeout=20, trust_env=False) as http:
        yield Api(url, gateway, http)


@pytest.fixture
def serve(upstream):
    """``async with serve(store) as api``: another replica on the same store."""
    return lambda store, **options: serving(stack_text(upstream.url, store=store, **options))


@pytest.fixture
async def api(serve, store_url):
    Sees.seen.clear()
    async with serve(store_url) as api:
        yield api


@pytest.fixture
async def sqlite_api(serve, sqlite_url):
    async with serve(sqlite_url) as api:
        yield api


@pytest.fixture
def admin_key():
    return ADMIN


@pytest.fixture
def hold():
    """Set, and calls that have passed auth go on to the attempt."""
    Sees.open = asyncio.Event()
    yield Sees.open
    Sees.open = None


@pytest.fixture
def seen():
    Sees.seen.clear()
    return Sees.seen

"""Vendors that keep things, each account its own, and a gateway before two of them."""

import itertools
import json
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl

import httpx2
import pytest
from openai import AsyncOpenAI

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, sse

ADMIN = secrets.token_hex(32)
KEYS = {name: f"sk-{secrets.token_hex(20)}" for name in ("ann", "abe", "bob", "cat")}
"""Ann and Abe are of one team, Bob of another; Cat has none."""
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}


class Vendor:
    """Files, batches, responses, caches: of an account, which is a credential. What is not there is a 404, as at OpenAI."""

    def __init__(self, up):
        self.up = up
        self.things = {}  # account → id → document
        self.numbers = itertools.count()
        up.default = self

    def __call__(self, seen):
        path, _, query = seen.target.partition("?")
        account = seen.header("authorization") or seen.header("x-api-key") or seen.header("x-goog-api-key")
        mine = self.things.setdefault(account, {})
        parts = path.split("/")[2:]  # behind /v1
        kind, *rest = parts[1:] if parts[0] == "messages" and parts[1:] else parts
        return self.of(seen, mine, kind, rest, dict(parse_qsl(query)))

    def of(self, seen, mine, kind, rest, query):
        if kind in {"chat", "messages"}:
            return self.talk(seen, mine)
        if kind == "responses" and not rest:
            return self.respond(seen, mine)
        if not rest:
            return self.make(seen, mine, kind) if seen.method == "POST" else self.listing(mine, kind, query, seen)
        name = f"{kind}/{rest[0]}" if kind == "cachedContents" else rest[0]
        if name not in mine:
            return missing(name)
        if seen.method == "DELETE":
            del mine[name]
            return answer({"id": name, "deleted": True})
        if rest[1:] == ["content"]:
            return Answer(body=b"words", headers=[("content-type", "application/octet-stream")])
        return answer(mine[name])

    def make(self, seen, mine, kind):
        id_ = {"files": "file-", "batches": "batch_", "cachedContents": "cachedContents/"}[kind] + secrets.token_hex(8)
        made = {"id": id_, "object": kind.removesuffix("es").removesuffix("s"), "at": next(self.numbers), "kind": kind}
        if kind == "cachedContents":
            made["name"] = made.pop("id")
        if kind == "batches" and "input_file_id" in (document := seen.document):
            if document["input_file_id"] not in mine:
                return missing(document["input_file_id"])
            out = self.make(seen, mine, "files")
            made["output_file_id"] = json.loads(out.body)["id"]
        mine[id_] = made
        return answer(made)

    def listing(self, mine, kind, query, seen):
        found = sorted((one for one in mine.values() if one["kind"] == kind), key=lambda one: one["at"])
        limit = int(query.get("limit") or query.get("pageSize") or 20)
        after = query.get("after") or query.get("after_id") or query.get("pageToken")
        at = next((n + 1 for n, one in enumerate(found) if after and after in one.values()), 0)
        page, more = found[at : at + limit], len(found) > at + limit
        if kind == "cachedContents":
            return answer({"cachedContents": page, **({"nextPageToken": page[-1]["name"]} if more else {})})
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return answer({"object": "list", "data": page, "has_more": more, **ends})

    def respond(self, seen, mine):
        asked = seen.document
        before = asked.get("previous_response_id")
        for id_ in [before, *files_in(asked)]:
            if id_ is not None and id_ not in mine:
                return missing(id_)
        id_ = f"resp_{secrets.token_hex(24)}"
        item = {"type": "message", "id": "i1", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": before or "first", "annotations": []}]}  # fmt: skip
        whole = {"id": id_, "object": "response", "created_at": 1, "status": "completed", "model": asked["model"], "output": [item], "usage": USAGE}  # fmt: skip
        if asked.get("store") is not False:
            mine[id_] = {**whole, "kind": "responses", "at": next(self.numbers)}
        if not asked.get("stream"):
            return answer(whole)
        frames = [("response.created", {"response": {**whole, "status": "in_progress", "output": [], "usage": None}}), ("response.output_text.delta", {"delta": "first", "item_id": "i1", "output_index": 0, "content_index": 0}), ("response.completed", {"response": whole})]  # fmt: skip
        return Answer(
            body=[b"event: %s\n" % name.encode() + b"".join(sse({"type": name, **data})) for name, data in frames]
        )

    def talk(self, seen, mine):
        for id_ in [seen.document.get("cachedContent"), *files_in(seen.document)]:
            if id_ is not None and id_ not in mine:
                return missing(id_)
        return answer(CHAT)


CHAT = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}  # fmt: skip


def files_in(value):
    if isinstance(value, list):
        return [id_ for one in value for id_ in files_in(one)]
    if not isinstance(value, dict):
        return []
    return [id_ for name, one in value.items() for id_ in ([one] if name == "file_id" else files_in(one))]


def answer(document, status=200):
    return Answer(status, body=json.dumps(document).encode())


def missing(id_):
    return answer({"error": {"message": f"No such object: {id_}", "type": "invalid_request_error"}}, 404)


@dataclass
class World:
    url: str
    gateway: Gateway
    east: Vendor
    west: Vendor
    http: httpx2.AsyncClient
    held: AsyncExitStack

    async def client(self, who):
        """The official SDK with somebody's key."""
        made = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEYS.get(who, who), max_retries=0)
        return await self.held.enter_async_context(made)

    async def raw(self, who, method, path, **options):
        headers = {"authorization": f"Bearer {KEYS.get(who, who)}", **options.pop("headers", {})}
        return await self.http.request(method, self.url + path, headers=headers, **options)

    @property
    def plugin(self):
        return next(p.plugin for p in self.gateway.stack.placed if p.name == "objects")


async def a_file_at_each(client):
    """Ids of two files: one at the east, one at the west."""
    made = []
    for where in ("east", "west"):
        there = {"x-gwcore-upstream": where}
        made.append(await client.files.create(file=("a", b"{}"), purpose="user_data", extra_headers=there))
    return [file.id for file in made]


def stack_text(east, west, store, *, objects="", more="", keys="[east-1]", auth=True, inside=""):
    teams = "teams: {a: {}, b: {}}, keys: {" + ", ".join(
        f"{name}: {{secret: {KEYS[name]}{team}}}"
        for name, team in [("ann", ", team: a"), ("abe", ", team: a"), ("bob", ", team: b"), ("cat", "")]
    )
    who = f"  - auth: {{admin_key: {ADMIN}, {teams}}}}}\n" if auth else ""
    entry = f"  - objects: {{{objects}}}\n" if objects is not None else ""
    return (
        f"gwcore: 1\nstores: {{book: '{store}'}}\n"
        "upstreams:\n"
        f"  east: {{provider: openai, base_url: '{east}/v1', api_keys: {keys}}}\n"
        f"  west: {{provider: openai, base_url: '{west}/v1', api_key: west-1}}\n"
        f"  claude: {{provider: anthropic, base_url: '{east}', api_key: claude-1}}\n"
        f"  google: {{provider: gemini, base_url: '{east}', api_key: google-1}}\n"
        "models: {both: [east/gpt, west/gpt], claude: claude/c, '*': pass}\n"
        f"{more}stack:\n{who}{entry}{inside}"
    )


@asynccontextmanager
async def world(store, **options):
    """A gateway before two OpenAI accounts and, at the first one's address, Anthropic and Google."""
    async with AsyncExitStack() as held:
        east, west = [Vendor(await held.enter_async_context(FakeUpstream())) for _ in range(2)]
        gateway = Gateway(stack_text(east.up.url, west.up.url, store, **options), serve_admin=True)
        url = await held.enter_async_context(running(gateway))
        http = await held.enter_async_context(httpx2.AsyncClient(trust_env=False))
        yield World(url, gateway, east, west, http, held)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/book.db"
    return request.getfixturevalue("postgres_url")

"""What the tests of the cache share: a scripted upstream, a gateway with the cache before it, one request in each dialect."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gwcore.call import Principal
from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, sse
from tests.stacks.raw import exchange

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def chunk(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def response(status, **more):
    return {"id": "r1", "object": "response", "created_at": 1, "status": status, "model": "m", "output": [], **more}


RESPONSE_USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}


def output(text):
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return [{"type": "message", "id": "i1", "role": "assistant", "status": "completed", "content": content}]


@dataclass(frozen=True)
class Wire:
    """One dialect: where to ask, what to ask, and how an upstream of it answers with a text."""

    provider: str
    suffix: str
    path: str
    stream_path: str
    body: dict
    whole: object
    frames: object
    cut: object

    def request(self, stream, **more):
        body = {**self.body, **more, **({"stream": stream} if self.provider != "gemini" else {})}
        return (self.stream_path if stream else self.path), json.dumps(body).encode()

    def answer(self, stream, text="hello", **more):
        """A good answer, or with ``cut`` one that a limit ended."""
        cut = more.pop("cut", False)
        finish = self.cut if cut else None
        if not stream:
            return Answer(body=json.dumps(self.whole(text, finish)).encode(), **more)
        return Answer(body=sse(*self.frames(text, finish)), **more)


def _responses_end(text, finish):
    if finish:
        return response("incomplete", output=output(text), usage=RESPONSE_USAGE, incomplete_details={"reason": finish})
    return response("completed", output=output(text), usage=RESPONSE_USAGE)


def _responses_frames(text, finish):
    end = _responses_end(text, finish)
    at = {"item_id": "i1", "output_index": 0, "content_index": 0}
    item, part = (
        {**output("")[0], "status": "in_progress", "content": []},
        {"type": "output_text", "text": "", "annotations": []},
    )
    done = output(text)[0]
    events = [
        {"type": "response.created", "response": response("in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **at, "part": part},
        {"type": "response.output_text.delta", **at, "delta": text},
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": done["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": f"response.{end['status']}", "response": end},
    ]
    return [(event["type"], {**event, "sequence_number": n}) for n, event in enumerate(events)]


def _gemini(text, finish):
    return {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish or "STOP", "index": 0}
        ],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10},
        "modelVersion": "m",
        "responseId": "g1",
    }


WIRES = {
    "openai.chat": Wire(
        "openai-compatible",
        "/v1",
        "/v1/chat/completions",
        "/v1/chat/completions",
        {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]},
        lambda text, finish: {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish or "stop"}
            ],
            "usage": USAGE,
        },
        lambda text, finish: [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": text}),
            chunk({}, finish or "stop"),
            {**chunk({}), "choices": [], "usage": USAGE},
            "[DONE]",
        ],
        "length",
    ),
    "openai.responses": Wire(
        "openai-compatible",
        "/v1",
        "/v1/responses",
        "/v1/responses",
        {"model": "m", "max_output_tokens": 64, "input": [{"type": "message", "role": "user", "content": "hi"}]},
        _responses_end,
        _responses_frames,
        "max_output_tokens",
    ),
    "anthropic.messages": Wire(
        "anthropic",
        "",
        "/v1/messages",
        "/v1/messages",
        {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]},
        lambda text, finish: {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": text}],
            "stop_reason": finish or "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": 3},
        },
        lambda text, finish: [
            ("message_start", {"type": "message_start", "message": {
                "id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
                "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 1}}}),
            ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            ("ping", {"type": "ping"}),
            ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("message_delta", {"type": "message_delta", "delta": {"stop_reason": finish or "end_turn", "stop_sequence": None},
                               "usage": {"output_tokens": 3}}),
            ("message_stop", {"type": "message_stop"}),
        ],
        "max_tokens",
    ),
    "gemini.generate": Wire(
        "gemini",
        "",
        "/v1beta/models/m:generateContent",
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 64}},
        _gemini,
        lambda text, finish: [_gemini(text, finish)],
        "MAX_TOKENS",
    ),
}  # fmt: skip
DIALECTS = sorted(WIRES)


class Anybody(Plugin):
    """Says who calls: whoever the test put under the credential."""

    name = "anybody"
    identifies = True
    who: dict[str, Principal] = {}

    def call_layer(self, inner):
        async def anybody(call):
            name = call.credentials[0] if call.credentials else "nobody"
            call.principal = self.who.get(name) or Principal(id=name)
            return await inner(call)

        return anybody


class Watcher(Plugin):
    """Remembers how calls ended."""

    name = "watcher"
    ended: list = []

    @hookimpl
    def call_ended(self, call, outcome):
        self.ended.append((call, outcome))


class Extra:
    @staticmethod
    @hookimpl
    def gwcore_plugins():
        return [Anybody, Watcher]


def catalog():
    return Catalog(Extra())


@dataclass
class World:
    url: str
    gateway: Gateway
    ups: dict
    wire: Wire
    ended: list = field(default_factory=list)

    @property
    def up(self):
        return next(iter(self.ups.values()))

    @property
    def plugin(self):
        return next(p.plugin for p in self.gateway.stack.placed if p.name == "cache")

    @property
    def asked(self):
        """Requests that upstreams saw."""
        return sum(len(up.requests) for up in self.ups.values())

    async def ask(self, stream=False, headers=(), wire=None, who=None, **more):
        path, body = (wire or self.wire).request(stream, **more)
        return await self.post(path, body, headers, who=who)

    async def post(self, path, body, headers=(), *, who=None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [*headers, *([("authorization", f"Bearer {who}")] if who else [])]
        return await exchange(self.url, "POST", path, body, headers)

    async def settled(self):
        """Until what was answered has been kept."""
        await until(lambda: not self.plugin._writes and not self.plugin.flights)


def stack(
    ups, wire, *, cache=None, models=None, more=(), stores=None, prices=True, watch=(), first="anybody", upstream=None
):
    price = {"*": {"input": "$1/M", "output": "$2/M"}}
    said = {
        "gwcore": 1,
        "stores": stores or {},
        "upstreams": {
            name: {
                "provider": wire.provider,
                "base_url": url + wire.suffix,
                "api_key": "sk-upstream-test-0000000",
                **({"prices": price} if prices else {}),
                **(upstream or {}),
            }
            for name, url in ups.items()
        },
        "models": models or {"m": [f"{name}/m" for name in ups]},
        "stack": [*([{first: {}}] if first else []), {"cache": cache or {}}, *more],
        "watch": [{name: {}} for name in ("watcher", *watch)],
    }
    return json.dumps(said, indent=1)


@asynccontextmanager
async def world(names="a", *, dialect="openai.chat", who=None, **said):
    """Fake upstreams a, b …, a gateway with the cache before them."""
    wire = WIRES[dialect]
    Anybody.who = who or {}
    Watcher.ended = ended = []
    async with AsyncExitStack() as exits:
        ups = {name: await exits.enter_async_context(FakeUpstream()) for name in names}
        gateway = Gateway(stack({name: up.url for name, up in ups.items()}, wire, **said), catalog=catalog())
        url = await exits.enter_async_context(running(gateway))
        yield World(url, gateway, ups, wire, ended)


async def until(condition, within=10.0):
    """Wait for something that is due. Raises ``TimeoutError``."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


def state(seen):
    """What the cache said."""
    return seen.headers.get("x-gwcore-cache")

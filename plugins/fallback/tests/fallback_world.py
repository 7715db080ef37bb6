"""What the tests of the router share: upstreams that fail as told, a gateway before them, one request in each dialect."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, sse
from gwcore.wire.sse import SseReader
from tests.stacks.raw import exchange

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def response(status, **more):
    return {"id": "r1", "object": "response", "created_at": 1, "status": status, "model": "m", "output": [], **more}


def event(kind, **more):
    return kind, {"type": kind, **more}


@dataclass(frozen=True)
class Wire:
    """One dialect: where to ask, what to ask, and how an upstream of it answers."""

    provider: str
    suffix: str
    path: str
    stream_path: str
    body: dict
    opening: list
    content: object
    finish: list
    whole: object
    failure: object
    tool: list
    """A call of a function, begun."""

    def request(self, stream, **more):
        body = {**self.body, **more, **({"stream": stream} if self.provider != "gemini" else {})}
        return (self.stream_path if stream else self.path), json.dumps(body).encode()

    def answer(self, stream, text="hello", **more):
        if not stream:
            return Answer(body=json.dumps(self.whole(text)).encode(), **more)
        return Answer(body=self.frames(text), **more)

    def frames(self, *texts):
        return sse(*self.opening, *map(self.content, texts), *self.finish)


WIRES = {
    "openai.chat": Wire(
        "openai-compatible",
        "/v1",
        "/v1/chat/completions",
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        [chunk({"role": "assistant", "content": ""})],
        lambda text: chunk({"content": text}),
        [chunk({}, "stop"), "[DONE]"],
        lambda text: {
            "id": "c1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": USAGE,
        },
        {"error": {"message": "overloaded", "code": 503}},
        [
            chunk(
                {
                    "tool_calls": [
                        {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}
                    ]
                }
            ),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Par'}}]}),
        ],
    ),
    "openai.responses": Wire(
        "openai-compatible",
        "/v1",
        "/v1/responses",
        "/v1/responses",
        {"model": "m", "input": "hi"},
        [
            ("response.created", {"type": "response.created", "response": response("in_progress")}),
            ("response.in_progress", {"type": "response.in_progress", "response": response("in_progress")}),
            event(
                "response.output_item.added",
                output_index=0,
                item={"type": "message", "id": "i1", "role": "assistant", "status": "in_progress", "content": []},
            ),
            event(
                "response.content_part.added",
                item_id="i1",
                output_index=0,
                content_index=0,
                part={"type": "output_text", "text": "", "annotations": []},
            ),
        ],
        lambda text: event("response.output_text.delta", item_id="i1", output_index=0, content_index=0, delta=text),
        [("response.completed", {"type": "response.completed", "response": response("completed")})],
        lambda text: response("completed", output_text=text),
        (
            "response.failed",
            {
                "type": "response.failed",
                "response": response("failed", error={"code": "server_error", "message": "overloaded"}),
            },
        ),
        [
            event(
                "response.output_item.added",
                output_index=1,
                item={"type": "function_call", "id": "f1", "call_id": "t1", "name": "f", "arguments": ""},
            ),
            event("response.function_call_arguments.delta", output_index=1, item_id="f1", delta='{"city": "Par'),
        ],
    ),
    "anthropic.messages": Wire(
        "anthropic",
        "",
        "/v1/messages",
        "/v1/messages",
        {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]},
        [
            (
                "message_start",
                {
                    "type": "message_start",
                    "message": {"id": "m1", "content": [], "usage": {"input_tokens": 7, "output_tokens": 0}},
                },
            ),
            ("ping", {"type": "ping"}),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ],
        lambda text: (
            "content_block_delta",
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        ),
        [
            event("content_block_stop", index=0),
            (
                "message_delta",
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
            ),
            ("message_stop", {"type": "message_stop"}),
        ],
        lambda text: {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 7, "output_tokens": 3},
        },
        ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}}),
        [
            event("content_block_stop", index=0),
            event(
                "content_block_start",
                index=1,
                content_block={"type": "tool_use", "id": "t1", "name": "f", "input": {}},
            ),
            event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": '{"city": "Par'}),
        ],
    ),
    "gemini.generate": Wire(
        "gemini",
        "",
        "/v1beta/models/m:generateContent",
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
        [],
        lambda text: {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]},
        [
            {
                "candidates": [{"content": {"role": "model", "parts": [{"text": "!"}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10},
            }
        ],
        lambda text: {
            "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10},
        },
        {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}},
        [
            {
                "candidates": [
                    {"content": {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"city": "Par"}}}]}}
                ]
            }
        ],
    ),
}


def documents(body):
    """The JSON of an event stream."""
    return [json.loads(frame.data) for frame in SseReader().feed(body) if frame.data not in {b"", b"[DONE]"}]


def said(wire, stream, body):
    """The text that a client reads."""
    return "".join(_said(document) for document in (documents(body) if stream else [json.loads(body)]))


def _said(document):
    if "choices" in document:
        return "".join((c.get("delta") or c.get("message") or {}).get("content") or "" for c in document["choices"])
    if "candidates" in document:
        return "".join(p.get("text", "") for c in document["candidates"] for p in c.get("content", {}).get("parts", []))
    if document.get("type") == "message":
        return "".join(part.get("text", "") for part in document["content"])
    if document.get("object") == "response":
        parts = [part for item in document["output"] for part in item.get("content", [])]
        return document.get("output_text") or "".join(part["text"] for part in parts)
    if document.get("type") == "response.output_text.delta":
        return document["delta"]
    delta = document.get("delta")
    return delta.get("text", "") if isinstance(delta, dict) else ""


def ended_with_error(body):
    """Whether an event stream has an error event of its dialect."""
    for document in documents(body) if b"data:" in body else []:
        if "error" in document or document.get("type") in {"error", "response.failed"}:
            return True
    return False


@dataclass
class World:
    url: str
    gateway: Gateway
    ups: dict = field(default_factory=dict)
    wire: Wire = WIRES["openai.chat"]

    async def ask(self, stream=False, headers=(), **more):
        path, body = self.wire.request(stream, **more)
        return await exchange(self.url, "POST", path, body, headers)

    @property
    def calls(self):
        return {name: len(up.requests) for name, up in self.ups.items()}

    @property
    def plugin(self):
        return next(p.plugin for p in self.gateway.stack.placed if p.name == "fallback")

    def breaker(self, name):
        return self.plugin.fleet.deployments[name].breaker


def stack_text(ups, wire, *, fallback="{}", models=None, upstream="", each=None, extra="", stores=""):
    each = each or {}
    lines = ["gwcore: 1", *([f"stores: {stores}"] if stores else []), "upstreams:"]
    lines += [
        f'  {name}: {{provider: {wire.provider}, base_url: "{url}{wire.suffix}"{upstream}{each.get(name, "")}}}'
        for name, url in ups.items()
    ]
    models = models or {"m": [f"{name}/m" for name in ups]}
    lines.append("models: " + json.dumps(models))
    lines.append(f"stack:\n  - fallback: {fallback}\n{extra}")
    return "\n".join(lines)


@asynccontextmanager
async def world(names="ab", *, dialect="openai.chat", dead=(), **stack):
    """Fake upstreams a, b …, a gateway with the router before them; ``dead`` ones refuse connections."""
    wire = WIRES[dialect]
    async with AsyncExitStack() as exits:
        ups = {name: await exits.enter_async_context(FakeUpstream()) for name in names if name not in dead}
        urls = {name: ups[name].url if name in ups else "http://127.0.0.1:1" for name in names}
        gateway = Gateway(stack_text(urls, wire, **stack))
        url = await exits.enter_async_context(running(gateway))
        yield World(url, gateway, ups, wire)


def earn(w, share=0.5):
    """Two calls' worth of second attempts; a call of its own might take its hedge on a busy machine."""
    for _ in range(2):
        w.plugin.chooser.hedges(share).request()


async def until(condition, within=5.0):
    """Wait for something that is due. Raises ``TimeoutError``."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)

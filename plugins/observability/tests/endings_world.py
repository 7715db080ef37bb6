"""Every route and every way to end it, and what each sink was told of it: call id → (state, nano-USD)."""

from __future__ import annotations

import asyncio
import gzip
import math
from dataclasses import dataclass

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gwcore.testing.upstream import Answer, FakeUpstream, sse
from gwcore_observability.ids import event_id

FACE = {"id": "c1", "created": 1, "model": "m"}
COUNTED = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
OUTPUT = [{"type": "message", "id": "i1", "role": "assistant", "status": "completed",
           "content": [{"type": "output_text", "text": "hello", "annotations": []}]}]  # fmt: skip
RESPONSE = {"id": "r1", "object": "response", "created_at": 1, "model": "m", "status": "in_progress", "output": []}
RESPONDED = {**RESPONSE, "status": "completed", "output": OUTPUT,
             "usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}}  # fmt: skip
MESSAGE = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
           "stop_sequence": None, "usage": {"input_tokens": 11, "output_tokens": 1}}  # fmt: skip
BLOCK = {"type": "text", "text": "hello"}
USED = {"input_tokens": 11, "output_tokens": 7}
BEGUN = {"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "H"}]}}]}
GENERATED = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP", "index": 0}],
             "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}, "modelVersion": "m"}  # fmt: skip


def choice(**more):
    return [{"index": 0, "finish_reason": "stop", **more}]


@dataclass(frozen=True)
class Way:
    """One route: who serves it, where to ask for what, and the upstream's answers, whole and streamed."""

    provider: str
    path: str
    body: dict
    whole: dict
    frames: list
    stream_path: str = ""
    usage: tuple[int, int] = (11, 7)

    @property
    def nano(self):
        """At $1 and $2 a million."""
        return self.usage[0] * 1000 + self.usage[1] * 2000

    def asked(self, text, *, stream=False):
        body = orjson.loads(orjson.dumps(self.body).replace(b"TEXT", text.encode()))
        return (self.stream_path or self.path) if stream else self.path, body | (
            {"stream": True} if stream and not self.stream_path else {}
        )


def named(*events):
    return [(event["type"], event) for event in events]


WAYS = {
    "/chat/completions": Way(
        "openai", "/v1/chat/completions", {"model": "fast", "messages": [{"role": "user", "content": "TEXT"}]},
        {**FACE, "object": "chat.completion", "choices": choice(message={"role": "assistant", "content": "hello"}), "usage": COUNTED},
        [{**FACE, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}}]},
         {**FACE, "object": "chat.completion.chunk", "choices": choice(delta={})},
         {**FACE, "object": "chat.completion.chunk", "choices": [], "usage": COUNTED}, "[DONE]"],
    ),
    "/completions": Way(
        "openai", "/v1/completions", {"model": "fast", "prompt": "TEXT"},
        {**FACE, "object": "text_completion", "choices": choice(text="hello"), "usage": COUNTED},
        [{**FACE, "object": "text_completion", "choices": [{"index": 0, "text": "hello", "finish_reason": None}]},
         {**FACE, "object": "text_completion", "choices": choice(text="")},
         {**FACE, "object": "text_completion", "choices": [], "usage": COUNTED}, "[DONE]"],
    ),
    "/embeddings": Way(
        "openai", "/v1/embeddings", {"model": "fast", "input": "TEXT"},
        {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
         "usage": {"prompt_tokens": 11, "total_tokens": 11}},
        [], usage=(11, 0),
    ),
    "/responses": Way(
        "openai", "/v1/responses", {"model": "fast", "input": "TEXT"}, RESPONDED,
        named(
            {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
            {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "i1", "output_index": 0, "content_index": 0, "delta": "hello"},
            {"type": "response.completed", "sequence_number": 2, "response": RESPONDED},
        ),
    ),
    "/messages": Way(
        "anthropic", "/v1/messages", {"model": "fast", "max_tokens": 20, "messages": [{"role": "user", "content": "TEXT"}]},
        {**MESSAGE, "content": [BLOCK], "stop_reason": "end_turn", "usage": USED},
        named(
            {"type": "message_start", "message": MESSAGE},
            {"type": "content_block_start", "index": 0, "content_block": {**BLOCK, "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
        ),
    ),
    "/models/{model}:generateContent": Way(
        "gemini", "/v1beta/models/fast:generateContent", {"contents": [{"role": "user", "parts": [{"text": "TEXT"}]}]},
        GENERATED, [BEGUN, GENERATED], "/v1beta/models/fast:streamGenerateContent?alt=sse",
    ),
}  # fmt: skip


def upstream_of(way, late):
    """Answers well, but fails when told ``fail``, says no more than a beginning when told ``leave``, and waits when told ``late``."""

    def answer(seen):
        if b"fail" in seen.body:
            return Answer(500, body=b"{}")
        stream = b'"stream":true' in seen.body or "streamGenerate" in seen.target
        frames = sse(*way.frames)
        if b"leave" in seen.body:
            return Answer(body=frames, stall_after=len(frames[0])) if stream else Answer(delay_head=math.inf)
        wait = late if b"late" in seen.body else 0
        if stream:
            return Answer(body=frames, delay_first=wait)
        return Answer(body=orjson.dumps(way.whole), delay_head=wait)

    return answer


class Everywhere(FakeUpstream):
    """A collector, Langfuse, Helicone and a webhook at one address."""

    def of(self, path):
        return [seen.body for seen in list(self.requests) if seen.target == path]

    def spans(self, path):
        for body in self.of(path):
            said = ExportTraceServiceRequest.FromString(gzip.decompress(body))
            for one in (s for r in said.resource_spans for scope in r.scope_spans for s in scope.spans):
                yield one, {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in one.attributes}

    def otel(self):
        return [
            (said["gwcore.request.id"], said["gwcore.state"], said.get("gwcore.cost.nano_usd"))
            for span, said in self.spans("/v1/traces")
            if span.kind == span.SPAN_KIND_SERVER
        ]

    def langfuse(self):
        """Costs stand on the generations."""
        spans = list(self.spans("/api/public/otel/v1/traces"))
        costs = {}
        for one, said in spans:
            if (cost := said.get("langfuse.observation.cost_details")) is not None:
                total = cost.partition('"total":')[2].partition("}")[0].partition(",")[0]
                costs[one.trace_id] = costs.get(one.trace_id, 0) + int(total.replace(".", ""))
        return [
            (said["langfuse.trace.metadata.request_id"], said["langfuse.observation.metadata.state"], costs.get(one.trace_id))
            for one, said in spans
            if said["langfuse.observation.type"] == "span"
        ]  # fmt: skip

    def webhook(self):
        said = [record for body in self.of("/hook") for record in orjson.loads(body)]
        return [(record["id"], record["state"], record["cost_nano"]) for record in said]

    def helicone(self):
        told = []
        for said in map(orjson.loads, self.of("/custom/v1/log")):
            meta, id_ = said["providerRequest"]["meta"], said["providerResponse"]["json"]["id"]
            assert meta["Helicone-Request-Id"] == event_id(id_)
            cost = meta.get("Helicone-Property-cost_nano_usd")
            told.append((id_, meta["Helicone-Property-state"], None if cost is None else int(cost)))
        return told


def of_lines(text):
    """What the access log says."""
    said = [orjson.loads(line) for line in text.splitlines()]
    costs = (one.get("cost_usd") for one in said)
    return [
        (one["id"], one["state"], cost and int(cost.replace(".", ""))) for one, cost in zip(said, costs, strict=True)
    ]


async def until(condition, within=15.0):
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)

"""Pain K8: an assistant's turn that says nothing, and not why, is a failure: whole and streamed, passed on and translated.

What may be empty stays what it is: cut off, filtered, refused, stopped by a sequence, ended by the model itself.
"""

import json
from contextlib import asynccontextmanager

import pytest

from gwcore import chat
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, sse
from tests.stacks.raw import exchange

PROVIDERS = {
    "openai.chat": ("openai-compatible", "/v1"),
    "openai.responses": ("openai-compatible", "/v1"),
    "anthropic.messages": ("anthropic", ""),
    "gemini.generate": ("gemini", ""),
}
ASKED = {
    "openai.chat": ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    "openai.responses": ("/v1/responses", {"model": "m", "input": "hi"}),
    "anthropic.messages": (
        "/v1/messages",
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    ),
    "gemini.generate": (
        "/v1beta/models/m:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    ),
}
WAYS = [(source, client) for source in PROVIDERS for client in PROVIDERS]
EMPTY = {
    "openai.chat": "stop",
    "openai.responses": "completed",
    "anthropic.messages": "end_turn",
    "gemini.generate": "STOP",
}
"""The plain end of each dialect."""
CUT = {
    "openai.chat": ("length", "content_filter", "tool_calls"),
    "openai.responses": ("incomplete",),
    "anthropic.messages": ("max_tokens", "refusal", "pause_turn", "stop_sequence"),
    "gemini.generate": ("MAX_TOKENS", "SAFETY"),
}
"""Ends that say why nothing was said."""


def chat_answer(finish, text, out):
    usage = {"prompt_tokens": 5, "completion_tokens": out, "total_tokens": 5 + out}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    whole = {
        **head,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
    }
    pieces = [{"role": "assistant", "content": ""}, *([{"content": text}] if text else [])]
    chunks = [{"index": 0, "delta": piece, "finish_reason": None} for piece in pieces]
    chunks.append({"index": 0, "delta": {}, "finish_reason": finish})
    stream = [{**head, "object": "chat.completion.chunk", "choices": [one]} for one in chunks]
    return {**whole, "usage": usage}, [*stream, {**stream[0], "choices": [], "usage": usage}, "[DONE]"]


def responses_answer(finish, text, out):
    usage = {"input_tokens": 5, "output_tokens": out, "total_tokens": 5 + out}
    done = {
        "id": "r1",
        "object": "response",
        "created_at": 1,
        "status": finish,
        "model": "m",
        "output": [],
        "usage": usage,
    }
    if finish == "incomplete":
        done["incomplete_details"] = {"reason": "max_output_tokens"}
    item = {"type": "message", "id": "i1", "role": "assistant", "status": "completed", "content": []}
    begun = {**done, "status": "in_progress", "usage": None}
    stream = [("response.created", {"type": "response.created", "response": begun})]
    if text:
        piece = {"type": "output_text", "text": text, "annotations": []}
        done["output"] = [{**item, "content": [piece]}]
        at = {"item_id": "i1", "output_index": 0, "content_index": 0}
        stream += [
            (kind, {"type": kind, **more})
            for kind, more in (
                ("response.output_item.added", {"output_index": 0, "item": item}),
                ("response.content_part.added", {**at, "part": {**piece, "text": ""}}),
                ("response.output_text.delta", {**at, "delta": text}),
            )
        ]
    return done, [*stream, (f"response.{finish}", {"type": f"response.{finish}", "response": done})]


def messages_answer(finish, text, out):
    usage = {"input_tokens": 5, "output_tokens": out}
    ended = {"stop_reason": finish, "stop_sequence": "alpha" if finish == "stop_sequence" else None}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    begun = {**head, "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 0}}
    events = [{"type": "message_start", "message": begun}]
    if text:
        events += [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            {"type": "content_block_stop", "index": 0},
        ]
    events += [{"type": "message_delta", "delta": ended, "usage": usage}, {"type": "message_stop"}]
    content = [{"type": "text", "text": text}] if text else []
    return {**head, **ended, "content": content, "usage": usage}, [(one["type"], one) for one in events]


def gemini_answer(finish, text, out):
    usage = {"promptTokenCount": 5, "candidatesTokenCount": out, "totalTokenCount": 5 + out}
    content = {"role": "model", **({"parts": [{"text": text}]} if text else {})}
    whole = {"candidates": [{"index": 0, "content": content, "finishReason": finish}], "usageMetadata": usage}
    return whole, [whole]


ANSWERS = {
    "openai.chat": chat_answer,
    "openai.responses": responses_answer,
    "anthropic.messages": messages_answer,
    "gemini.generate": gemini_answer,
}


def answered(source, finish, text, out, *, stream):
    whole, events = ANSWERS[source](finish, text, out)
    return Answer(body=sse(*events)) if stream else Answer(body=json.dumps(whole).encode())


@asynccontextmanager
async def world(source, *, read=True):
    """A gateway before one upstream that speaks ``source`` only; ``read``: something asks for usage."""
    provider, suffix = PROVIDERS[source]
    async with FakeUpstream() as up:
        entry = {"provider": provider, "base_url": up.url + suffix, "dialect": source}
        stack = ["tokencount"] if read else []
        gateway = Gateway(
            json.dumps({"gwcore": 1, "upstreams": {"up": entry}, "models": {"m": "up/m"}, "stack": stack}) + "\n"
        )
        async with running(gateway) as url:
            yield up, url


async def ask(url, client, *, stream):
    path, body = ASKED[client]
    if client == "gemini.generate" and stream:
        path = path.replace("generateContent", "streamGenerateContent?alt=sse")
    elif stream:
        body = {**body, "stream": True}
    return await exchange(url, "POST", path, json.dumps(body).encode())


async def statuses(source, client, cases, *, stream, read=True):
    async with world(source, read=read) as (up, url):
        out = []
        for finish, text, tokens in cases:
            up.script(answered(source, finish, text, tokens, stream=stream))
            out.append((await ask(url, client, stream=stream)).status)
        return out


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("source", "client"), WAYS)
async def test_nothing_without_a_reason_is_a_failure_and_with_one_an_answer(source, client, stream):
    plain = EMPTY[source]
    cases = [
        (plain, "", 0),
        (plain, "hello", 3),
        (plain, "", 2),  # the model ended its turn, which took it tokens
        *((word, "", 0) for word in CUT[source]),
    ]
    assert await statuses(source, client, cases, stream=stream) == [502, *[200] * (len(cases) - 1)]


@pytest.mark.parametrize("source", PROVIDERS)
async def test_a_whole_answer_that_nobody_reads_passes_as_it_is(source):
    """Without a plugin that asks for usage its bytes are not looked at; a stream's beginning always is."""
    cases = [(EMPTY[source], "", 0)]
    assert await statuses(source, source, cases, stream=False, read=False) == [200]
    assert await statuses(source, source, cases, stream=True, read=False) == [502]


async def test_who_stops_without_telling_usage_may_have_meant_to():
    """OpenAI's streams tell it only if asked: the client did not, and no plugin did."""
    _, events = ANSWERS["openai.chat"]("stop", "", 1)
    events = [one for one in events if not (isinstance(one, dict) and one.get("usage"))]
    async with world("openai.chat", read=False) as (up, url):
        up.default = Answer(body=sse(*events))
        assert (await ask(url, "openai.chat", stream=True)).status == 200
        up.default = Answer(body=sse("[DONE]"))
        seen = await ask(url, "openai.chat", stream=True)
    assert seen.status == 200  # as recorded: not ours to judge


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", ["openai.chat", "anthropic.messages"])
async def test_the_next_target_is_asked(client, stream):
    async with FakeUpstream() as lost, FakeUpstream() as good:
        ups = {
            n: {"provider": "openai-compatible", "base_url": f"{u.url}/v1", "dialect": "openai.chat"}
            for n, u in (("a", lost), ("b", good))
        }
        text = json.dumps(
            {"gwcore": 1, "upstreams": ups, "models": {"m": ["a/m", "b/m"]}, "stack": ["tokencount", "fallback"]}
        )
        lost.default = answered("openai.chat", "stop", "", 0, stream=stream)
        good.default = answered("openai.chat", "stop", "hello", 3, stream=stream)
        async with running(Gateway(text + "\n")) as url:
            seen = await ask(url, client, stream=stream)
    assert seen.status == 200 and b"hello" in seen.body and dict(seen.headers)["x-gwcore-upstream"] == "b"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("source", "client"), [("openai.chat", "openai.chat"), ("openai.chat", "anthropic.messages")])
async def test_a_gateway_that_does_not_look_is_seen(source, client, stream, monkeypatch):
    """The negative control: with the decision taken out, the empty turn is a 200."""
    monkeypatch.setattr(chat, "silent", lambda *_: True)
    monkeypatch.setattr("gwcore.translate.silent", lambda *_: True)
    assert await statuses(source, client, [(EMPTY[source], "", 0)], stream=stream) == [200]

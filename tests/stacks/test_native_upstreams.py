"""Recorded answers of APIs that no client speaks, through official SDKs of other dialects: what the digest says arrives.

Whole and streamed, at hostile chunkings, and in the other mode than the upstream's.
"""

import json

import anthropic
import openai
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.fidelity.oracle import arguments
from tests.stacks.test_recordings import HOSTILE, recorded_body, split

UPSTREAMS = {
    "ollama-chat": {"provider": "ollama", "dialect": "ollama.chat"},
    "cohere-chat-v2": {"provider": "cohere", "dialect": "cohere.chat", "api_key": "co-key-12345"},
    "bedrock-converse": {
        "provider": "bedrock",
        "dialect": "bedrock.converse",
        "region": "us-east-1",
        "api_key": "aws-key-12345",
    },
}
TYPES = {
    "ndjson": "application/x-ndjson",
    "sse": "text/event-stream",
    "eventstream": "application/vnd.amazon.eventstream",
}
FINISH = {
    "stop": "stop", "length": "length", "COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls", "end_turn": "stop", "tool_use": "tool_calls", "guardrail_intervened": "content_filter",
}  # fmt: skip


def stack(up, dialect, **more):
    entry = {**UPSTREAMS[dialect], "base_url": up.url, **more}
    return Gateway(json.dumps({"gwcore": 1, "upstreams": {"up": entry}, "models": {"*": "pass"}, "stack": []}) + "\n")


def answer(record, how):
    kind = TYPES.get(record["digest"].get("framing"), "application/json")
    raw = recorded_body(record)
    return Answer(record["response"]["status"], headers=[("content-type", kind)], body=split(raw, how(raw)))


def chosen(recordings, dialect, *, good):
    found = [r for r in recordings if r["dialect"] == dialect and (r["response"]["status"] < 400) is good]
    return [r for r in found if not (good and r["digest"].get("error"))]


def wanted(record):
    """Text, thoughts, calls, finish and usage by the digest."""
    digest = record["digest"]
    usage = digest.get("usage") or {}
    beside = (
        (usage.get("cached") or 0) + (usage.get("cache_write") or 0) if record["dialect"] == "bedrock-converse" else 0
    )
    billed = {"input": usage.get("billed_input"), "output": usage.get("billed_output")}
    counts = {key: value for key, value in billed.items() if value is not None} or usage  # what Cohere counts as used
    finish = FINISH[digest["finish"]]
    calls = [(call["name"], arguments(call["arguments"])) for call in digest.get("tool_calls") or ()]
    return (
        digest.get("text") or "",
        digest.get("reasoning") or digest.get("tool_plan") or "",
        calls,
        "tool_calls" if calls and finish == "stop" else finish,
        (counts.get("input", 0) + beside, counts.get("output", 0)),
    )


async def through_openai(url, model, *, stream):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        given = {"model": f"up/{model}", "messages": [{"role": "user", "content": "hi"}]}
        if not stream:
            reply = await client.chat.completions.create(**given)
            message, usage = reply.choices[0].message, reply.usage
            calls = [(call.function.name, arguments(call.function.arguments)) for call in message.tool_calls or ()]
            used = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
            thought = (message.model_extra or {}).get("reasoning_content") or ""
            return message.content or "", thought, calls, reply.choices[0].finish_reason, used
        text, thought, calls, finish, usage = "", "", {}, None, None
        async for chunk in await client.chat.completions.create(
            **given, stream=True, stream_options={"include_usage": True}
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                text += choice.delta.content or ""
                thought += (choice.delta.model_extra or {}).get("reasoning_content") or ""
                for call in choice.delta.tool_calls or ():
                    known = calls.setdefault(call.index, ["", ""])
                    known[0] += call.function.name or ""
                    known[1] += call.function.arguments or ""
        used = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return text, thought, [(name, arguments(given)) for name, given in calls.values()], finish, used


STOPS = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}


async def through_anthropic(url, model, *, stream):
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
        given = {"model": f"up/{model}", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
        if stream:
            async with client.messages.stream(**given) as events:
                reply = await events.get_final_message()
        else:
            reply = await client.messages.create(**given)
    usage = reply.usage
    text = "".join(block.text for block in reply.content if block.type == "text")
    thought = "".join(block.thinking for block in reply.content if block.type == "thinking")
    calls = [(block.name, block.input) for block in reply.content if block.type == "tool_use"]
    total = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return text, thought, calls, STOPS[reply.stop_reason], (total, usage.output_tokens)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", range(len(HOSTILE)))
@pytest.mark.parametrize("dialect", UPSTREAMS)
async def test_every_recorded_answer_is_what_the_client_reads(recordings, dialect, how):
    records = chosen(recordings, dialect, good=True)
    wrong = []
    async with FakeUpstream() as up, running(stack(up, dialect)) as url:
        for record in records:
            up.default = answer(record, HOSTILE[how])
            for through in (through_openai, through_anthropic) if how in {0, 3} else (through_openai,):
                got = await through(url, record["model"], stream=record["stream"])
                if got != wanted(record):
                    wrong.append((record["id"], through.__name__, got, wanted(record)))
    assert len(records) >= 9
    assert not wrong, wrong[:3]


@pytest.mark.parametrize("dialect", UPSTREAMS)
async def test_the_other_mode_than_the_upstreams(recordings, dialect):
    """A client that asked for a stream reads a whole answer, and the other way round."""
    async with FakeUpstream() as up, running(stack(up, dialect)) as url:
        for record in chosen(recordings, dialect, good=True):
            up.default = answer(record, HOSTILE[0])
            if record["digest"].get("framing") != "eventstream":  # which no server sends unasked
                assert await through_openai(url, record["model"], stream=not record["stream"]) == wanted(record)


@pytest.mark.parametrize("dialect", UPSTREAMS)
async def test_recorded_errors_keep_status_and_words(recordings, dialect):
    records = chosen(recordings, dialect, good=False)
    async with FakeUpstream() as up, running(stack(up, dialect)) as url:
        for record in records:
            up.default = answer(record, HOSTILE[1])
            with pytest.raises(openai.APIStatusError) as caught:
                await through_openai(url, record["model"], stream=record["stream"])
            assert caught.value.status_code == record["response"]["status"]
            assert record["digest"]["error"]["message"] in caught.value.message
    assert len(records) >= 2


async def test_an_error_inside_cohere_s_stream_ends_it_with_an_error(recordings):
    record = next(r for r in recordings if r["dialect"] == "cohere-chat-v2" and r["digest"].get("finish") == "ERROR")
    async with FakeUpstream() as up, running(stack(up, record["dialect"])) as url:
        up.default = answer(record, HOSTILE[2])
        with pytest.raises(openai.APIError, match="invalid tool generation"):
            await through_openai(url, record["model"], stream=True)


@pytest.mark.parametrize("dialect", UPSTREAMS)
async def test_a_stream_that_is_cut_is_no_answer(recordings, dialect):
    record = next(r for r in chosen(recordings, dialect, good=True) if r["stream"] and r["digest"].get("text"))
    raw = recorded_body(record)
    kind = TYPES[record["digest"]["framing"]]
    async with FakeUpstream() as up, running(stack(up, dialect)) as url:
        up.default = Answer(headers=[("content-type", kind)], body=[raw[: len(raw) * 2 // 3]])
        with pytest.raises(openai.APIError):
            await through_openai(url, record["model"], stream=True)


async def test_redacted_thoughts_of_converse_come_back_byte_for_byte(recordings):
    record = next(r for r in recordings if r["dialect"] == "bedrock-converse" and "redacted_thinking" in r["tags"])
    sealed = json.loads(recorded_body(record))["output"]["message"]["content"][0]["reasoningContent"]["redactedContent"]
    async with FakeUpstream() as up, running(stack(up, "bedrock-converse")) as url:
        up.default = answer(record, HOSTILE[0])
        async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
            asked = {"role": "user", "content": "hi"}
            reply = await client.messages.create(model=f"up/{record['model']}", max_tokens=9, messages=[asked])
            turn = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in reply.content]}
            await client.messages.create(model=f"up/{record['model']}", max_tokens=9, messages=[asked, turn, asked])
        again = up.requests[1].document["messages"][1]["content"][0]
    assert again == {"reasoningContent": {"redactedContent": sealed}}


OLLAMA = {"model": "m", "created_at": "2026-05-04T22:48:51Z", "message": {"role": "assistant", "content": "Hi"}, "done": True,
          "done_reason": "stop", "prompt_eval_count": 4000, "eval_count": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "path", "named"),
    [
        ({"num_ctx": 4096}, "/api/chat", "input beyond 4096 tokens"),
        ({"num_ctx": 8192}, "/api/chat", None),
        ({"keep_alive": "30m"}, "/api/chat", None),
        ({}, "/v1/chat/completions", None),
    ],
)
async def test_what_the_compatible_api_cannot_say_goes_through_ollama_s_own(options, path, named):
    """E13: the window is asked for, and an answer to an input that fills it says that some of it may have been cut."""
    compatible = {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
                  "object": "chat.completion", "created": 1, "model": "m"}  # fmt: skip
    told = OLLAMA if options else compatible
    entry = {"provider": "ollama", **options}
    async with FakeUpstream(Answer(body=json.dumps(told).encode())) as up:
        whole = {"gwcore": 1, "upstreams": {"up": {**entry, "base_url": up.url}}, "models": {"*": "pass"}, "stack": []}
        async with running(Gateway(json.dumps(whole) + "\n")) as url:
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
            async with client:
                raw = await client.chat.completions.with_raw_response.create(
                    model="up/qwen3", messages=[{"role": "user", "content": "hi"}]
                )
        (seen,) = up.requests
    assert seen.target == path and raw.parse().choices[0].message.content == "Hi"
    assert seen.document.get("options", {}).get("num_ctx") == options.get("num_ctx")
    assert seen.document.get("keep_alive") == options.get("keep_alive")
    assert raw.headers.get("x-gwcore-dropped") == named

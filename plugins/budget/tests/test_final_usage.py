"""An error behind the last word: where the upstream has said all that it bills, that is posted, else the worst case."""

import json

import pytest
from budget_stack import Got, holds, serving, sound
from test_budget_dialects import CLIENTS, stack

from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream, sse
from gwcore_budget import plugin as module
from gwcore_budget.ledger.ops import POSTED, REAPED
from tests.stacks.raw import exchange

BILL = 20 * 1_000 + 30 * 1_000_000
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def named(*frames):
    return sse(*[(frame["type"], frame) for frame in frames])


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None}
START = {"type": "message_start", "message": {**MESSAGE, "usage": {"input_tokens": 20, "output_tokens": 1}}}
WORDS = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
]
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}}
DONE = {"id": "r", "object": "response", "status": "failed", "output": [], "error": {"code": "server_error", "message": "no"}}  # fmt: skip
USED = {"input_tokens": 20, "output_tokens": 30, "total_tokens": 50}
SAID = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0, "delta": "Hello"}
COUNTED = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
BROKEN = sse({"error": {"message": "Overloaded", "code": 503}})

FINAL = {
    "anthropic.messages": named(START, *WORDS, DELTA, ERROR),
    "openai.chat": chat_stream("a", "b", usage=(20, 30), done=False) + BROKEN,
    "openai.responses": named(SAID, {"type": "response.failed", "response": {**DONE, "usage": USED}}),
}
OPEN = {
    "anthropic.messages": named(START, *WORDS, ERROR),
    # usage with each word is not the last one
    "openai.chat": sse({**CHUNK, "choices": [{"index": 0, "delta": {"content": "a"}}], "usage": COUNTED}) + BROKEN,
    "openai.responses": named(SAID, {"type": "response.failed", "response": {**DONE, "usage": None}}),
}


async def ended(dialect, frames, **answer):
    async with FakeUpstream() as up:
        up.default = Answer(body=frames, **answer)
        path, document, name = CLIENTS[dialect]
        asked = {**document, "stream": True, name: 1_000}
        async with serving(stack(up, dialect, "$5")) as (url, _, plugin):
            headers = [("authorization", "Bearer k"), ("anthropic-version", "2023-06-01")]
            seen = Got(await exchange(url, "POST", path, json.dumps(asked).encode(), headers))
            assert seen.status == 200
            row = (await holds(plugin))[0]
            await sound(plugin)
            return row


@pytest.mark.parametrize("dialect", FINAL)
async def test_an_error_behind_the_final_usage_costs_what_was_used(dialect):
    state, held, settled, basis = await ended(dialect, FINAL[dialect])
    assert (state, settled, basis) == (POSTED, BILL, "usage") and held > 1_000_000_000


@pytest.mark.parametrize("dialect", OPEN)
async def test_a_stream_that_breaks_in_its_midst_costs_the_worst_case(dialect):
    state, held, settled, _ = await ended(dialect, OPEN[dialect])
    assert (state, settled) == (REAPED, held)


async def test_a_connection_that_is_lost_behind_the_final_usage():
    body = chat_stream("a", "b", finish=None, usage=(20, 30), done=False)
    state, _, settled, _ = await ended("openai.chat", body)
    assert (state, settled) == (POSTED, BILL)


async def test_negative_control_any_usage_taken_for_the_last(monkeypatch):
    monkeypatch.setattr(module, "_final", lambda attempt: attempt.meter.usage is not None)
    state, held, settled, _ = await ended("anthropic.messages", OPEN["anthropic.messages"])
    assert state == POSTED and settled < BILL < held

"""Code execution: the files that it writes are their caller's, and a container is gone on with by who had it, where it is."""

import json

import anthropic
import pytest
from anthropic import AsyncAnthropic
from objects_world import KEYS, USAGE, answer, world

from gwcore.testing.upstream import Answer, sse
from gwcore_objects.ids import carried

FILE = "file_011CNha8iCJcU1wXNR6q4V8w"
CONTAINER = {"id": "container_011", "expires_at": "2026-12-01T00:00:00Z"}
RUN = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "bash_code_execution", "input": {"command": "make"}}
RESULT = {
    "type": "bash_code_execution_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {
        "type": "bash_code_execution_result", "stdout": "", "stderr": "", "return_code": 0,
        "content": [{"type": "bash_code_execution_output", "file_id": FILE}],
    },
}  # fmt: skip
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "c", "stop_reason": "end_turn", "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2}, "container": CONTAINER, "content": [RUN, RESULT, {"type": "text", "text": "There."}],
}  # fmt: skip
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "container": None, "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": RUN},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": RESULT},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None, "container": CONTAINER}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]  # fmt: skip
ASKED = {
    "model": "claude/c",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "make me a file"}],
    "tools": [{"type": "code_execution_20250825", "name": "code_execution"}],
}


async def of(w, who):
    return await w.held.enter_async_context(AsyncAnthropic(base_url=w.url, api_key=KEYS[who], max_retries=0))


@pytest.mark.parametrize("stream", [False, True])
async def test_who_had_it_written_downloads_it(tmp_path, stream):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        w.east.things["claude-1"] = {FILE: {"id": FILE, "kind": "files", "at": 0}}
        ann, bob = await of(w, "ann"), await of(w, "bob")
        with pytest.raises(anthropic.NotFoundError):
            await ann.beta.files.download(FILE)
        events = [b"event: %s\n" % one["type"].encode() + b"".join(sse(one)) for one in EVENTS]
        w.east.up.script(Answer(body=events) if stream else answer(MESSAGE))
        if stream:
            async with ann.beta.messages.stream(**ASKED) as said:
                made = await said.get_final_message()
        else:
            made = await ann.beta.messages.create(**ASKED)
        assert made.content[1].content.content[0].file_id == FILE
        assert await (await ann.beta.files.download(FILE)).read() == b"words"
        with pytest.raises(anthropic.NotFoundError, match="through this gateway"):
            await bob.beta.files.download(FILE)
        # the container is hers, too; one that nobody is known to have may be anybody's
        for container in (CONTAINER["id"], {"id": CONTAINER["id"], "skills": []}):
            with pytest.raises(anthropic.NotFoundError, match=CONTAINER["id"]):
                await bob.beta.messages.create(**ASKED, container=container)
        for who, container in ((ann, CONTAINER["id"]), (bob, "container_elsewhere")):
            w.east.up.script(answer(MESSAGE))
            await who.beta.messages.create(**ASKED, container=container)
            assert w.east.up.requests[-1].document["container"] == container


@pytest.mark.parametrize("tool", ["web_search_20260209", "web_fetch_20260309"])
async def test_the_container_in_which_what_was_found_is_filtered_is_its_caller_s(tmp_path, tool):
    """Claude's newer web tools run code of their own accord."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        ann, bob = await of(w, "ann"), await of(w, "bob")
        asked = {**ASKED, "tools": [{"type": tool, "name": tool[:-9]}]}
        w.east.up.script(answer(MESSAGE))
        await ann.beta.messages.create(**asked)
        with pytest.raises(anthropic.NotFoundError, match=CONTAINER["id"]):
            await bob.beta.messages.create(**asked, container=CONTAINER["id"])
        one = {"custom_id": "1", "params": {**asked, "model": "c", "container": CONTAINER["id"]}}
        with pytest.raises(anthropic.NotFoundError, match=CONTAINER["id"]):
            await bob.beta.messages.batches.create(requests=[one], extra_headers={"x-gwcore-upstream": "claude"})


async def test_what_no_code_ran_for_is_not_read(tmp_path):
    """An answer may quote such a block; it is taken for one of the vendor's only where its tool was there."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        w.east.things["claude-1"] = {FILE: {"id": FILE, "kind": "files", "at": 0}}
        ann = await of(w, "ann")
        w.east.up.script(answer(MESSAGE))
        await ann.messages.create(**{**ASKED, "tools": []})
        with pytest.raises(anthropic.NotFoundError):
            await ann.beta.files.download(FILE)


async def is_anns_at_the_west(w, body):
    """Whether ``cntr_1``, which the request names, is gone on with by Ann alone, where it is."""
    before = len(w.west.up.requests)
    for _ in range(4):
        assert (await w.raw("ann", "POST", "/v1/responses", json=body)).status_code == 200
    assert len(w.west.up.requests) == before + 4
    refused = await w.raw("bob", "POST", "/v1/responses", json=body)
    assert refused.status_code == 404 and "cntr_1" in refused.text


@pytest.mark.parametrize(("stream", "store"), [(False, True), (True, False)])
async def test_a_container_of_openai_s_is_gone_on_with_where_it_is(tmp_path, stream, store):
    item = {"type": "code_interpreter_call", "id": "ci_1", "code": "1", "container_id": "cntr_1", "status": "completed", "outputs": None}  # fmt: skip
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt", "output": [item], "usage": USAGE}  # fmt: skip
    events = [
        {"type": "response.created", "response": {**whole, "output": [], "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        w.west.up.script(Answer(body=[b"".join(sse(one)) for one in events]) if stream else answer(whole))
        body = {
            "input": "hi",
            "stream": stream,
            "store": store,
            "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}],
        }
        assert (await w.raw("ann", "POST", "/v1/responses", json={"model": "west/gpt", **body})).status_code == 200
        body |= {"model": "both", "tools": [{"type": "code_interpreter", "container": "cntr_1"}]}
        await is_anns_at_the_west(w, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_shell_s_container_is_its_caller_s(tmp_path, stream):
    item = {"type": "shell_call", "id": "sh_1", "call_id": "call_1", "action": {"commands": ["ls"]}, "status": "in_progress"}  # fmt: skip
    ended = {**item, "status": "completed", "environment": {"type": "container_reference", "container_id": "cntr_1"}}
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt", "output": [ended], "usage": USAGE}  # fmt: skip
    events = [
        {"type": "response.created", "response": {**whole, "output": [], "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_item.done", "output_index": 0, "item": ended},
        {"type": "response.completed", "response": whole},
    ]
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        w.west.up.script(Answer(body=[b"".join(sse(one)) for one in events]) if stream else answer(whole))
        tool = {"type": "shell", "environment": {"type": "container_auto"}}
        body = {"model": "west/gpt", "input": "hi", "stream": stream, "store": False, "tools": [tool]}
        assert (await w.raw("ann", "POST", "/v1/responses", json=body)).status_code == 200
        tool = {"type": "shell", "environment": ended["environment"]}
        body = {"model": "both", "input": "hi", "tools": [tool]}
        await is_anns_at_the_west(w, body)


def test_the_lines_of_a_batch_name_containers():
    tools = [
        {"type": "code_interpreter", "container": "cntr_1"},
        {"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_2"}},
        {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}},
    ]
    line = json.dumps({"custom_id": "1", "body": {"model": "gpt", "tools": tools}}).encode()
    assert carried(line) == {"cntr_1": False, "cntr_2": False, "file-1": True}

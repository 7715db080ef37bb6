"""What a request names, where, and how it may be hidden; and what is no name of a vendor's."""

import json

import openai
import pytest
from objects_world import USAGE, a_file_at_each, answer, world

import gwcore_objects.book
from gwcore.errors import BadRequest
from gwcore.testing.fakes import call
from gwcore.testing.upstream import Answer, sse
from gwcore_objects.ids import carried, named

TERMS = {"endpoint": "/v1/responses", "completion_window": "24h"}


def told(w):
    """What reached the vendors, as text."""
    return b"".join(seen.body + seen.target.encode() for v in (w.east, w.west) for seen in v.up.requests)


SCHEMA = {"type": "object", "properties": {"file_id": {"type": "string"}, "file_ids": {"type": "array"}}, "required": ["file_id"]}  # fmt: skip
HELLO = [{"role": "user", "content": "hi"}]
CALLERS_OWN = [
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
    {"tools": [{"type": "function", "name": "f", "parameters": {**SCHEMA, "examples": [{"file_id": "x"}]}}]},
    {"tools": [{"name": "f", "input_schema": {**SCHEMA, "default": {"file_id": "x"}}}]},
    {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"file_id": "x"}}]}]},
    {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"file_id": "x"}}}]}]},
    {"contents": [{"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"file_id": "x"}}}]}]},
    {"input": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [{"type": "file_citation", "file_id": "x"}]}]}]},
    {"input": [{"type": "file_search_call", "id": "fs", "results": [{"file_id": "x", "text": "a"}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "bash_code_execution_tool_result", "content": {"type": "bash_code_execution_result", "content": [{"type": "bash_code_execution_output", "file_id": "x"}]}}]}]},
    {"metadata": {"file_id": "x"}, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [{"file_id": "x"}]}}}},
]  # fmt: skip


@pytest.mark.parametrize("members", CALLERS_OWN)
def test_a_tool_of_the_callers_may_speak_of_files(members):
    """``file_id`` is a usual name of a parameter."""
    made = call(**members)
    made.raw = json.dumps(made.document).encode()
    assert named(made) == {}


NAMING = [
    {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "ID"}}]}]},
    {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "file_id": "ID"}]}]},
    {"prompt": {"id": "p", "variables": {"image": {"type": "input_image", "file_id": "ID"}}}},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "document", "source": {"type": "file", "file_id": "ID"}}]}]}]},
    {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "ID"}]}]},
    {"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "ID"}}]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["other", "ID"]}}]},
    {"requests": [{"params": {"messages": [{"role": "user", "content": [{"type": ["x"], "source": {"file_id": "ID"}}]}]}}]},
    {"cachedContent": "projects/1/locations/l/ID"},
]  # fmt: skip


@pytest.mark.parametrize("members", NAMING)
def test_where_vendors_read_ids(members):
    id_ = "cachedContents/7" if "cachedContent" in members else "file-1"
    made = call(**json.loads(json.dumps(members).replace("ID", id_)))
    made.raw = json.dumps(made.document).encode()
    assert named(made)[id_] and made.edited


HIDING = [{"container": None}, {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}]


@pytest.mark.parametrize("members", HIDING)
def test_what_may_hide_a_container_is_written_anew(members):
    """Of two members of one name the vendor may read the other."""
    made = call(**members)
    made.raw = json.dumps(made.document).encode()
    assert named(made) == {} and made.edited


ITEMS = [
    ({"type": "item_reference", "id": "ID"}, True),
    ({"id": "ID"}, True),
    ({"type": None, "id": "ID"}, True),
    ({"type": "reasoning", "id": "ID", "summary": []}, False),
    ({"type": "image_generation_call", "id": "ID"}, False),
]


async def answered(w, who, item, model="both"):
    body = {"model": model, "input": [{"role": "user", "content": "hi"}, item]}
    return await w.raw(who, "POST", "/v1/responses", json=body)


@pytest.mark.parametrize("stream", [False, True])
async def test_items_of_a_stored_response(tmp_path, stream):
    """They are its maker's, and where it is kept: by ``item_reference`` an answer is read again, and a picture changed."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        item = {"type": "message", "id": "msg_ann", "role": "assistant", "status": "completed", "content": []}
        whole = {"id": "0b1c-of-another-vendor", "object": "response", "created_at": 1, "status": "completed", "model": "gpt", "output": [item], "usage": USAGE}  # fmt: skip
        events = [{"type": "response.created", "response": {**whole, "output": []}}, {"type": "response.output_item.added", "output_index": 0, "item": item}, {"type": "response.output_text.delta", "delta": "a"}, {"type": "response.completed", "response": whole}]  # fmt: skip
        w.west.up.script(Answer(body=[b"".join(sse(one)) for one in events]) if stream else answer(whole))
        made = await w.raw("ann", "POST", "/v1/responses", json={"model": "west/gpt", "input": "hi", "stream": stream})
        assert made.status_code == 200
        for shape, needed in ITEMS:
            theirs = {**shape, "id": "msg_ann"}
            refused = await answered(w, "bob", theirs)
            assert refused.status_code == 404 and "through this gateway" in refused.text, shape
            before = len(w.west.up.requests)
            assert (await answered(w, "abe", theirs)).status_code == 200
            assert len(w.west.up.requests) == before + 1, "where it is kept"
            nobodys = await answered(w, "abe", {**shape, "id": "rs_of_a_translated_answer"})
            assert nobodys.status_code == (404 if needed else 200), shape
        labels = {
            "type": "message",
            "id": "msg_ann",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a"}],
        }
        sealed = {"type": "reasoning", "id": "msg_ann", "summary": [], "encrypted_content": "e"}
        for odd in (labels, sealed, {"type": ["x"], "id": "x"}, {"type": {}, "id": 5}):
            assert (await answered(w, "bob", odd)).status_code == 200, odd
        again = await w.raw("ann", "POST", "/v1/responses", json={"model": "both", "input": "x", "previous_response_id": whole["id"]})  # fmt: skip
        assert "No such object" in again.text, "asked for at the vendor, which in this test does not have it"


LINES = [
    '{"custom_id": "1", "method": "POST", "url": "/v1/responses", "body": {"previous_response_id": "ID"}}',
    '{"custom_id": "1", "url": "/v1/responses", "body": {"previous_response_id": "ID", "previous_response_id": null}}',
    '{"custom_id": "1", "url": "/v1/responses", "body": {"input": [{"content": [{"f\\u0069le_id": "ID"}]}]}}',
    '{"custom_id": "1", "url": "/v1/responses", "body": {"input": [{"type": "item_reference", "id": "ID"}]}}',
    '{"custom_id": "1", "url": "/v1/responses", "body": {"tools": [{"container": {"file_ids": ["ID"]}}]}}',
]


@pytest.mark.parametrize("line", LINES)
async def test_a_batch_names_no_others_things(tmp_path, line):
    """The vendor reads each line as a request of the account."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        made = await (await w.client("ann")).responses.create(model="west/gpt", input="secret")
        lines = b"{}\n" + line.replace("ID", made.id).encode() + b"\n"
        with pytest.raises(openai.NotFoundError):
            await (await w.client("bob")).files.create(file=("a.jsonl", lines), purpose="batch")
        assert made.id.encode() not in told(w)
        await (await w.client("abe")).files.create(file=("a.jsonl", lines), purpose="batch")
        assert w.west.up.requests[-1].target == "/v1/files", "where it is kept"


def test_what_is_no_line_of_a_batch_is_let_alone():
    others = [
        b"file_id: x",
        b"{\xff file_id}",
        b'{"body": {"file_id": {"type": "string"}}}',
        b'{"file_id": "x"}',
        b"[1]",
    ]
    assert carried(b"\n".join(others)) == {}
    assert carried(b"\r\n\xef\xbb\xbf" + b'{"body": {"file_id": "x"}}') == {"x": True}
    with pytest.raises(BadRequest, match="nested too deeply"):
        carried(b'{"file_id": ' * 500_000)


async def test_a_long_upload_is_looked_through(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        made = await (await w.client("ann")).responses.create(model="east/gpt", input="secret")
        lines = b'{"custom_id": "1", "body": {}}\n' * 50_000 + LINES[0].replace("ID", made.id).encode()
        with pytest.raises(openai.NotFoundError):
            await (await w.client("bob")).files.create(file=("a.jsonl", lines), purpose="batch")


async def test_names_at_two_places_are_no_way(tmp_path):
    """Nor where the call has no model."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        client = await w.client("ann")
        ids = await a_file_at_each(client)
        with pytest.raises(openai.BadRequestError, match="stored at different upstreams"):
            await client.batches.create(input_file_id=ids[0], extra_body={"more": {"file_id": ids[1]}}, **TERMS)


ODD = ["a\0b", "x" * 5000, "\ud7ff", "%2e%2e", "..", "%ff", "a%00b"]


async def test_odd_ids_are_nobodys(store_url):
    async with world(store_url) as w:
        for id_ in ODD:
            asked = {"model": "east/gpt", "input": "hi", "previous_response_id": id_}
            assert (await w.raw("bob", "POST", "/v1/responses", json=asked)).status_code == 404, id_[:9]
            if "\0" not in id_:
                assert (await w.raw("bob", "GET", f"/v1/files/{id_}")).status_code in {400, 404}, id_[:9]
        assert not w.east.up.requests


async def test_google_says_one_name_in_several_ways(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db", objects="unknown: pass") as w:
        w.east.up.script(answer({"name": "projects/p/locations/l/cachedContents/77", "model": "m"}))
        made = await w.raw("ann", "POST", "/v1beta/cachedContents", json={"model": "m"})
        assert made.status_code == 200
        before = len(w.east.up.requests)
        for name in (
            "cachedContents/77",
            "projects/p/locations/l/cachedContents/77",
            "projects/123/locations/l/cachedContents/77",
        ):
            body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "cachedContent": name}
            refused = await w.raw("bob", "POST", "/v1beta/models/google%2Fg:generateContent", json=body)
            assert refused.status_code == 404, refused.text
        assert len(w.east.up.requests) == before


async def test_many_labels_are_one_question(tmp_path, monkeypatch):
    """An agent sends its whole history each time."""
    asked = []
    real = gwcore_objects.book.reading
    monkeypatch.setattr("gwcore_objects.book.reading", lambda store: asked.append(1) or real(store))
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        items = [{"type": "reasoning", "id": f"rs_{n}", "summary": []} for n in range(200)]
        body = {"model": "east/gpt", "input": [{"role": "user", "content": "hi"}, *items]}
        assert (await w.raw("ann", "POST", "/v1/responses", json=body)).status_code == 200
        assert len(asked) == 1


async def test_results_of_a_batch_are_not_kept_in_mind(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        w.east.up.script(
            answer({"id": "msgbatch_1", "processing_status": "ended"}), answer({"id": "not-an-id", "result": {}})
        )
        headers = {"anthropic-version": "2023-06-01"}
        await w.raw("ann", "POST", "/v1/messages/batches", headers=headers, json={"requests": []})
        seen = await w.raw("ann", "GET", "/v1/messages/batches/msgbatch_1/results", headers=headers)
        assert seen.status_code == 200 and set(w.plugin.book._known) == {"msgbatch_1"}

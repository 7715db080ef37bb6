"""Where things are kept: a call goes to the upstream, and with the credential, that has what it names."""

import asyncio
import json
from collections import Counter

import openai
import pytest
from objects_world import ADMIN, KEYS, a_file_at_each, answer, world

from gwcore.testing.server import running
from gwcore.testing.upstream import Answer

SPREAD = "  - fallback: {strategy: shuffle, retry: {attempts: 1}}\n"


async def conversations(w, who="ann", turns=4, stream=False, store=None):
    """How many of twelve conversations reach their end, and how many calls each account got."""
    client, ended = await w.client(who), 0
    for _ in range(12):
        before = None
        try:
            for _ in range(turns):
                made = await client.responses.create(
                    model="both", input="hi", previous_response_id=before, stream=stream, **({} if store is None else {"store": store})
                )  # fmt: skip
                if stream:
                    made = [event async for event in made][-1].response
                assert made.output_text == (before or "first")
                before = made.id
            ended += 1
        except openai.NotFoundError:
            pass
    counts = Counter(seen.header("authorization") for vendor in (w.east, w.west) for seen in vendor.up.requests)
    return ended, counts


@pytest.mark.parametrize(("stream", "auth"), [(False, True), (True, False)])
async def test_a_conversation_stays_where_it_is_kept(store_url, stream, auth):
    async with world(store_url, inside=SPREAD, keys="[east-1, east-2]", auth=auth) as w:
        ended, counts = await conversations(w, stream=stream)
        assert ended == 12 and counts.total() == 48
        assert len(counts) > 1, "all went to one"


async def test_without_objects_it_does_not(tmp_path):
    """The control: two vendors in turn do not know each other's answers."""
    async with world(f"sqlite:///{tmp_path}/book.db", objects=None, inside=SPREAD, keys="[east-1, east-2]") as w:
        ended, _ = await conversations(w)
        assert ended < 12


async def test_a_batch_goes_where_its_file_is(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        client = await w.client("ann")
        west = {"x-gwcore-upstream": "west"}
        file = (await client.files.create(file=("a", b"{}"), purpose="batch", extra_headers=west)).id
        terms = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await client.batches.create(input_file_id=file, **terms)
        assert (await client.batches.retrieve(batch.id)).output_file_id
        await client.files.delete(file)
        assert not w.east.up.requests and len(w.west.up.requests) == 4


async def test_what_no_target_has_is_said(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        client = await w.client("ann")
        ids = await a_file_at_each(client)
        with pytest.raises(openai.BadRequestError, match="stored at west, where east/gpt is not served"):
            await client.responses.create(model="east/gpt", input=_files(ids[1:]))
        with pytest.raises(openai.BadRequestError, match="stored at different upstreams"):
            await client.responses.create(model="both", input=_files(ids))
        for id_ in ids:
            await client.responses.create(model="both", input=_files([id_]))
            chat = [{"role": "user", "content": [{"type": "file", "file": {"file_id": id_}}]}]
            await client.chat.completions.create(model="both", messages=chat)


def _files(ids):
    return [{"role": "user", "content": [{"type": "input_file", "file_id": id_} for id_ in ids]}]


async def test_an_upstream_that_was_taken_away(tmp_path):
    store = f"sqlite:///{tmp_path}/book.db"
    async with world(store) as w:
        file = (await w.raw("ann", "POST", "/v1/files", content=b"x", headers={"x-gwcore-upstream": "west"})).json()[
            "id"
        ]
        stack = tmp_path / "stack.yaml"
        stack.write_text("\n".join(line for line in w.gateway.source.replace("[east/gpt, west/gpt]", "east/gpt").split("\n") if "  west:" not in line))  # fmt: skip
        w.gateway.source = stack
        assert await w.gateway.reload()
        refused = await w.raw("ann", "GET", f"/v1/files/{file}")
        assert refused.status_code == 404 and "no longer configured" in refused.text


async def test_another_gateway_knows_at_once(store_url):
    """Two replicas on one store: what one hands out the other takes, before the row is likely to be there."""
    async with world(store_url) as w:
        again = type(w.gateway)(w.gateway.source, serve_admin=True)
        async with running(again) as url:
            for _ in range(10):
                made = (await w.raw("ann", "POST", "/v1/files", content=b"x")).json()["id"]
                headers = {"authorization": w.east.up.requests[-1].header("authorization")}
                assert headers["authorization"] == "Bearer east-1"
                there = await w.http.get(f"{url}/v1/files/{made}", headers={"authorization": f"Bearer {ADMIN}"})
                assert there.status_code == 200
                own = await w.http.get(f"{url}/v1/files/{made}", headers={"authorization": f"Bearer {KEYS['abe']}"})
                assert own.status_code == 200


async def test_a_stream_whose_client_left_is_kept(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        created = json.dumps({"type": "response.created", "response": {"id": "resp_cut", "output": []}}).encode()
        delta = json.dumps({"type": "response.output_text.delta", "delta": "a"}).encode()
        frames = [b"data: " + created + b"\n\n", b"data: " + delta + b"\n\n"]
        w.east.up.script(Answer(body=frames, stall_after=sum(map(len, frames))))
        client = await w.client("ann")
        stream = await client.responses.create(model="east/gpt", input="hi", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        w.east.things.setdefault("Bearer east-1", {})["resp_cut"] = {"id": "resp_cut", "kind": "responses", "at": 0}
        assert (await w.raw("abe", "GET", "/v1/responses/resp_cut")).status_code == 200
        assert (await w.raw("bob", "GET", "/v1/responses/resp_cut")).status_code == 404


async def test_a_translated_answer_is_kept_nowhere(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        client = await w.client("ann")
        w.east.up.script(answer({"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}))  # fmt: skip
        made = await client.responses.create(model="claude/c", input="hi")
        assert made.output_text == "hi"
        unkept = await client.responses.create(model="east/gpt", input="hi", store=False)
        await asyncio.sleep(0)
        assert w.plugin.book._known == {} and w.plugin.book.waiting == 0, (made.id, unkept.id)


async def test_whoever_got_it_from_the_cache_goes_on_with_it(tmp_path):
    cache = "  - cache: {scope: shared, ttl: 60s}\n"
    async with world(f"sqlite:///{tmp_path}/book.db", inside=cache) as w:
        made = [await (await w.client(who)).responses.create(model="both", input="hi") for who in ("ann", "bob")]
        assert made[0].id == made[1].id and len(w.east.up.requests) == 1
        for who in ("ann", "bob"):
            on = await (await w.client(who)).responses.create(model="both", input=who, previous_response_id=made[0].id)
            assert on.output_text == made[0].id
        await asyncio.sleep(0)
        refused = await w.raw("cat", "GET", f"/v1/responses/{made[0].id}")
        assert refused.status_code == 404

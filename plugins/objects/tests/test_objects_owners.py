"""Two tenants on one account: each reaches its own, by every address and by every name in a body."""

import openai
import pytest
from anthropic import AsyncAnthropic
from google import genai
from objects_world import ADMIN, KEYS, answer, world

from gwcore.catalog import Catalog
from gwcore_objects.ids import KINDS

HELLO = [{"role": "user", "content": "hi"}]
ROUTES = [
    (dialect.name, route)
    for dialect in Catalog().dialects()
    for route in dialect.routes
    if route.model == "none" and not route.local
]


async def upload(client):
    return (await client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")).id


async def missing(asking):
    """What a stranger is told, who must not learn that it is there."""
    with pytest.raises(openai.NotFoundError) as caught:
        await asking
    assert "through this gateway" in str(caught.value)


def test_every_address_of_what_is_kept_is_known():
    """A new address without a model is somebody's until it is decided whose."""
    assert {route.operation for _, route in ROUTES} == set(KINDS)


MADE_AT = {
    ("anthropic.messages", "file"): "/v1/files",
    ("anthropic.messages", "batch"): "/v1/messages/batches",
    ("openai.chat", "file"): "/v1/files",
    ("openai.chat", "batch"): "/v1/batches",
    ("openai.responses", "response"): "/v1/responses",
    ("gemini.generate", "cache"): "/v1beta/cachedContents",
}


ADDRESSES = sorted({(name, r.method, r.path, KINDS[r.operation]) for name, r in ROUTES if "{id}" in r.path})


async def test_no_address_takes_anothers_id(tmp_path, monkeypatch):
    monkeypatch.setattr("gwcore_objects.book._AGAIN", (0.01,))
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        for address in ADDRESSES:
            await nobody_elses(w, *address)
    assert len(ADDRESSES) > 15


async def nobody_elses(w, name, method, path, kind):
    headers = {"anthropic-version": "2023-06-01"} if name.startswith("anthropic") else {}
    asked = {"headers": headers, "json": {} if method == "PATCH" else None}
    sent = {"content": b"x"} if kind == "file" else {"json": {"model": "east/gpt", "input": "hi"}}
    created = await w.raw("ann", "POST", MADE_AT[name, kind], headers=headers, **sent)
    id_ = (created.json().get("id") or created.json()["name"]).rpartition("/")[2]
    address = MADE_AT[name, kind].split("/")[1] + path.replace("{id}", id_)
    before = len(w.east.up.requests)
    for stranger in ("bob", "cat"):
        refused = await w.raw(stranger, method, f"/{address}", **asked)
        assert refused.status_code == 404 and "through this gateway" in refused.text, path
    assert len(w.east.up.requests) == before
    assert (await w.raw("abe", method, f"/{address}", **asked)).status_code == 200, path
    assert (await w.raw(ADMIN, method, f"/{address}", **asked)).status_code == (404 if method == "DELETE" else 200)


async def test_files_and_batches_with_the_official_sdk(store_url):
    async with world(store_url) as w:
        ann, abe, bob, admin = [await w.client(who) for who in ("ann", "abe", "bob", ADMIN)]
        file = await upload(ann)
        assert (await abe.files.retrieve(file)).id == file
        assert (await abe.files.content(file)).read() == b"words"
        await missing(bob.files.retrieve(file))
        await missing(bob.files.content(file))
        await missing(bob.files.delete(file))
        terms = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        await missing(bob.batches.create(input_file_id=file, **terms))
        batch = await ann.batches.create(input_file_id=file, **terms)
        await missing(bob.batches.retrieve(batch.id))
        await missing(bob.batches.cancel(batch.id))
        out = (await abe.batches.retrieve(batch.id)).output_file_id
        assert (await ann.files.content(out)).read() == b"words"
        await missing(bob.files.content(out))
        theirs = await upload(bob)
        assert {one.id async for one in ann.files.list()} == {file, out}
        assert {one.id async for one in bob.files.list()} == {theirs}
        assert [one.id async for one in bob.batches.list()] == []
        assert {one.id async for one in admin.files.list()} == {file, out, theirs}
        assert (await admin.files.retrieve(theirs)).id == theirs
        await ann.files.delete(file)
        with pytest.raises(openai.NotFoundError):
            await ann.files.retrieve(file)


async def test_anthropic_batches_and_files(store_url):
    async with (
        world(store_url) as w,
        AsyncAnthropic(base_url=w.url, api_key=KEYS["ann"], max_retries=0) as ann,
        AsyncAnthropic(base_url=w.url, api_key=KEYS["bob"], max_retries=0) as bob,
    ):
        batch = await ann.messages.batches.create(requests=[])
        with pytest.raises(Exception, match="through this gateway") as caught:
            await bob.messages.batches.retrieve(batch.id)
        assert caught.value.body["error"]["type"] == "not_found_error"
        assert [one.id async for one in ann.messages.batches.list()] == [batch.id]
        assert [one.id async for one in bob.messages.batches.list()] == []
        file = await ann.beta.files.upload(file=("a.txt", b"x", "text/plain"))
        assert [one.id async for one in bob.beta.files.list()] == []
        image = [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": file.id}}]}]
        with pytest.raises(Exception, match="through this gateway"):
            await bob.messages.create(model="claude/c", max_tokens=9, messages=image)
        await ann.messages.create(model="claude/c", max_tokens=9, messages=image)


async def test_a_list_is_read_on_until_it_has_the_callers(tmp_path):
    """Of sixty files three are Bob's: SDKs take an empty page for the end."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        ann, bob = await w.client("ann"), await w.client("bob")
        theirs = []
        for number in range(60):
            id_ = await upload(bob if number % 29 == 1 else ann)
            theirs += [id_] if number % 29 == 1 else []
        assert [one.id async for one in bob.files.list(limit=5)] == theirs
        page = (await w.raw("bob", "GET", "/v1/files?limit=2")).json()
        assert [one["id"] for one in page["data"]] == theirs[:2] == [page["first_id"], page["last_id"]]
        assert page["has_more"] is True
        assert len([one async for one in ann.files.list(limit=7)]) == 60 - len(theirs)
        for who, count in (("bob", 0), ("ann", 3)):
            for _ in range(count):
                await w.raw(who, "POST", "/v1beta/cachedContents", json={"model": "m"})
            seen = (await w.raw(who, "GET", "/v1beta/cachedContents?pageSize=2")).json()
            assert len(seen["cachedContents"]) == min(count, 2)


async def test_what_is_no_list_is_not_shown(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        w.east.up.script(
            answer({"files": [{"id": "of-somebody"}]}), answer(["of-somebody"]), answer({"data": ["of-somebody"]})
        )
        seen = [await w.raw("bob", "GET", "/v1/files") for _ in range(3)]
        assert [one.status_code for one in seen] == [502, 200, 200]
        assert not any("of-somebody" in one.text for one in seen)


@pytest.mark.parametrize("shared_by", ["key", "user", "team", "organisation"])
async def test_who_shares(tmp_path, shared_by):
    async with world(f"sqlite:///{tmp_path}/book.db", objects=f"shared_by: {shared_by}") as w:
        file = await upload(await w.client("ann"))
        assert (await w.raw("abe", "GET", f"/v1/files/{file}")).status_code == (
            200 if shared_by in {"team", "organisation"} else 404
        )
        assert (await w.raw("cat", "GET", f"/v1/files/{file}")).status_code == 404


SPELLINGS = [
    b'{"previous_response_id": "ID", "model": "east/gpt", "input": "hi"}',
    b'{"previous_response_id": "ID", "previous_response_id": null, "model": "east/gpt", "input": "hi"}',
    b'{"previous\\u005fresponse_id": "ID", "model": "east/gpt", "input": "hi"}',
    b'{"model": "east/gpt", "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "ID"}]}]}',
    b'{"model": "east/gpt", "input": [{"role": "user", "content": [{"type": "input_file", "f\\u0069le_id": "ID"}]}]}',
    b'{"model": "east/gpt", "input": [{"role": "user", "content": [{"file_id": "ID", "file_id": null}]}]}',
    b'{"model": "east/gpt", "input": [{"role": "user", "content": [{"f\\u0069le_id": "ID", "f\\u0069le_id": null}]}]}',
    b'{"model": "east/gpt", "input": "hi", "tools": [{"type": "code_interpreter", "container": {"file_ids": ["ID"]}}]}',
]


async def test_no_spelling_brings_anothers_id_to_the_vendor(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        response = (await (await w.client("ann")).responses.create(model="east/gpt", input="hi")).id
        for spelling in SPELLINGS:
            asked = {
                "content": spelling.replace(b"ID", response.encode()),
                "headers": {"content-type": "application/json"},
            }
            before = len(w.east.up.requests)
            refused = await w.raw("bob", "POST", "/v1/responses", **asked)
            told = b"".join(seen.body for seen in w.east.up.requests[before:])
            assert response.encode() not in told, spelling
            assert refused.status_code == 404 or b"null" in spelling
            assert (await w.raw("abe", "POST", "/v1/responses", **asked)).status_code == 200


async def test_the_tests_see_a_leak(tmp_path, monkeypatch):
    """Without looking at bodies, Bob goes on with what Ann was told."""
    monkeypatch.setattr("gwcore_objects.plugin.named", lambda _call: {})
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        response = (await (await w.client("ann")).responses.create(model="east/gpt", input="secret")).id
        leaked = await (await w.client("bob")).responses.create(
            model="east/gpt", input="hi", previous_response_id=response
        )
        assert leaked.output_text == response


async def test_ids_from_elsewhere(tmp_path):
    for unknown, status in (("refuse", 404), ("pass", 200)):
        async with world(f"sqlite:///{tmp_path}/{unknown}.db", objects=f"unknown: {unknown}") as w:
            w.east.things["Bearer east-1"] = {"file-old": {"id": "file-old", "kind": "files", "at": -1}}
            assert (await w.raw("bob", "GET", "/v1/files/file-old")).status_code == status
            listed = (await w.raw("bob", "GET", "/v1/files")).json()["data"]
            assert len(listed) == (status == 200)
            mine = await upload(await w.client("ann"))
            assert (await w.raw("bob", "GET", f"/v1/files/{mine}")).status_code == 404
            assert mine not in (await w.raw("bob", "GET", "/v1/files")).text


async def test_googles_caches_with_googles_sdk(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        ann, bob = [
            genai.Client(api_key=KEYS[who], http_options=genai.types.HttpOptions(base_url=w.url)).aio
            for who in ("ann", "bob")
        ]
        async with ann, bob:
            made = await ann.caches.create(model="google/gemini-2.5-pro", config={"contents": "long"})
            assert (await ann.caches.get(name=made.name)).name == made.name
            assert [one.name async for one in await ann.caches.list()] == [made.name]
            assert [one.name async for one in await bob.caches.list()] == []
            for asking in (
                bob.caches.get(name=made.name),
                bob.caches.delete(name=made.name),
                bob.models.generate_content(
                    model="google/gemini-2.5-pro", contents="hi", config={"cached_content": made.name}
                ),
            ):
                with pytest.raises(genai.errors.ClientError, match="through this gateway") as caught:
                    await asking
                assert caught.value.code == 404
            await ann.caches.delete(name=made.name)
        assert not any(made.name.encode() in seen.body for seen in w.east.up.requests)

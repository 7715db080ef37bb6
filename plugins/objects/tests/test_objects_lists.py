"""Lists and the router: of several credentials, several models, with a cache in front, with a store that is away."""

import asyncio

from objects_world import answer, world

from gwcore.errors import StoreUnavailable
from gwcore.testing.upstream import Answer

SPREAD = "  - fallback: {strategy: shuffle, retry: {attempts: 1}}\n"


async def upload(w, who, **headers):
    return (await w.raw(who, "POST", "/v1/files", content=b"x", headers=headers)).json()["id"]


async def test_a_short_page_is_read_on_in_long_ones(tmp_path):
    """Behind a hundred of Ann's: by pages of one each, Bob's would not be found."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        for _ in range(101):
            await upload(w, "ann")
        theirs = [await upload(w, "bob") for _ in range(3)]
        before = len(w.east.up.requests)
        client = await w.client("bob")
        assert [one.id async for one in client.files.list(limit=1)] == theirs
        assert len(w.east.up.requests) - before < 10


async def test_a_list_stays_with_one_credential(tmp_path):
    """Cursors are of one account: the next page, the gateway's and the client's, is asked for where it is known."""
    async with world(f"sqlite:///{tmp_path}/book.db", inside=SPREAD, keys="[east-1, east-2]") as w:
        for _ in range(20):
            await upload(w, "ann")
            await upload(w, "bob")
        accounts = {name: {i for i, one in things.items()} for name, things in w.east.things.items()}
        assert len(accounts) == 2
        for who in ("ann", "bob", "ann", "bob", "ann", "bob"):
            before = len(w.east.up.requests)
            client = await w.client(who)
            found = [one.id async for one in client.files.list(limit=3)]
            used = {seen.header("authorization") for seen in w.east.up.requests[before:]}
            assert len(used) == 1 and len(set(found)) == len(found) > 3
            assert set(found) <= accounts[used.pop()]


async def test_a_batch_of_a_list_shows_its_files(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        client = await w.client("ann")
        file = await upload(w, "ann")
        made = await client.batches.create(input_file_id=file, endpoint="/v1/responses", completion_window="24h")
        out = made.output_file_id
        w.plugin.book.forget(
            out, [line.home for line in w.plugin.book._known[out]]
        )  # as if written after the batch was made
        async with asyncio.timeout(5):
            while w.plugin.book.waiting:
                await asyncio.sleep(0.01)
        assert (await w.raw("ann", "GET", f"/v1/files/{out}/content")).status_code == 404
        assert [one.id async for one in (await w.client("bob")).batches.list()] == []
        assert (await w.raw("ann", "GET", f"/v1/files/{out}/content")).status_code == 404, "Bob's list is not Ann's"
        assert [one.output_file_id async for one in client.batches.list()] == [out]
        assert (await w.raw("ann", "GET", f"/v1/files/{out}/content")).status_code == 200
        assert (await w.raw("bob", "GET", f"/v1/files/{out}/content")).status_code == 404


async def test_a_list_makes_nobody_an_owner(tmp_path):
    """With ``unknown: pass``, what everybody sees stays everybody's."""
    async with world(f"sqlite:///{tmp_path}/book.db", objects="unknown: pass") as w:
        mine = w.east.things.setdefault("Bearer east-1", {})
        mine["batch_old"] = {"id": "batch_old", "kind": "batches", "at": -1, "output_file_id": "file-old"}
        mine["file-old"] = {"id": "file-old", "kind": "files", "at": -1}
        for who in ("ann", "bob"):
            assert "batch_old" in (await w.raw(who, "GET", "/v1/batches")).text
            assert (await w.raw(who, "GET", "/v1/files/file-old")).status_code == 200


async def test_a_fallback_to_another_model_stays_where_it_is_kept(tmp_path):
    """Another account does not have it: its 404 would hide why the first one failed, and it would learn the id."""
    chain = "  - fallback: {retry: {attempts: 2}, models: {east/gpt: {fallbacks: [west/gpt]}}}\n"
    async with world(f"sqlite:///{tmp_path}/book.db", inside=chain) as w:
        body = {"model": "east/gpt", "input": "hi"}
        made = (await w.raw("ann", "POST", "/v1/responses", json=body)).json()["id"]
        w.east.up.default = Answer(503, body=b'{"error": {"message": "down"}}')
        on = await w.raw("ann", "POST", "/v1/responses", json={**body, "previous_response_id": made})
        assert on.status_code == 503 and not w.west.up.requests
        assert (await w.raw("ann", "POST", "/v1/responses", json=body)).status_code == 200
        assert len(w.west.up.requests) == 1, "the control: what names nothing goes on"


async def test_one_credential_becomes_several(tmp_path):
    """What the only one made is with the first of the list."""
    store = f"sqlite:///{tmp_path}/book.db"
    async with world(store, inside=SPREAD) as w:
        text = w.gateway.source.replace("api_keys: [east-1]", "api_key: east-1")
        w.gateway.source = text
        assert await w.gateway.reload()
        made = (await w.raw("ann", "POST", "/v1/responses", json={"model": "east/gpt", "input": "hi"})).json()["id"]
        w.gateway.source = text.replace("api_key: east-1", "api_keys: [east-1, east-2]")
        assert await w.gateway.reload()
        for _ in range(8):
            assert (await w.raw("ann", "GET", f"/v1/responses/{made}")).status_code == 200


async def test_a_hit_is_told_though_the_store_is_away(tmp_path, monkeypatch):
    async with world(
        f"sqlite:///{tmp_path}/book.db", inside="  - cache: {scope: shared, ttl: 60s, store: memory}\n"
    ) as w:
        body = {"model": "both", "input": "hi"}
        first = await w.raw("ann", "POST", "/v1/responses", json=body)
        w.plugin.book._known.clear()

        def away(*_):
            raise StoreUnavailable("away")

        monkeypatch.setattr("gwcore_objects.book.reading", away)
        again = await w.raw("bob", "POST", "/v1/responses", json=body)
        assert again.status_code == 200 and again.content == first.content and again.headers["x-gwcore-cache"] == "hit"


async def test_an_old_answer_is_where_it_was_made(tmp_path):
    """After an upstream's failure the cache tells what another one said: it is not at the one that failed."""
    cache = "  - cache: {scope: shared, ttl: 1s, stale_if_error: 60s}\n  - fallback: {retry: {attempts: 2, per_target: 0}}\n"
    async with world(f"sqlite:///{tmp_path}/book.db", inside=cache) as w:
        body = {"model": "both", "input": "hi"}
        made = (await w.raw("ann", "POST", "/v1/responses", json=body)).json()["id"]
        await asyncio.sleep(1.2)
        w.east.up.default = w.west.up.default = Answer(503, body=b"{}")
        old = await w.raw("ann", "POST", "/v1/responses", json=body)
        assert old.status_code == 200 and old.json()["id"] == made and w.west.up.requests, "the last that was asked"
        homes = (await w.plugin.book.look([made]))[made]
        assert {line.home.upstream for line in homes} == {"east"}


async def test_many_at_once_may_all_go_on(tmp_path):
    """One call of the upstream for many equal ones: each of those who got its answer may name it."""
    async with world(f"sqlite:///{tmp_path}/book.db", inside="  - cache: {scope: shared, ttl: 60s}\n") as w:
        body = {"model": "both", "input": "hi"}
        asked = [w.raw(who, "POST", "/v1/responses", json=body) for who in ("ann", "bob", "cat") for _ in range(5)]
        (made,) = {one.json()["id"] for one in await asyncio.gather(*asked)}
        for who in ("ann", "bob", "cat"):
            on = await w.raw(who, "POST", "/v1/responses", json={**body, "previous_response_id": made})
            assert on.status_code == 200, on.text


async def test_the_operator_with_an_end_user(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        made = (await w.raw("ann", "POST", "/v1/responses", json={"model": "both", "input": "hi"})).json()["id"]
        admin = w.gateway.stack.placed[0].plugin.config.admin_key.get_secret_value()
        on = {"model": "both", "input": "x", "previous_response_id": made, "user": "somebody"}
        assert (await w.raw(admin, "POST", "/v1/responses", json=on)).status_code == 200


async def test_no_page_of_the_vendors_hangs(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        w.east.up.default = answer(
            {"data": [{"id": "file-x"}], "has_more": True, "first_id": "file-x", "last_id": "file-x"}
        )
        for query in (
            "limit=0",
            "limit=-3",
            "limit=x",
            "limit=" + "9" * 5000,
            "limit=5&limit=0",
            "after=%00",
            "before_id=%ff",
        ):
            page = await w.raw("bob", "GET", f"/v1/files?{query}")
            assert page.status_code == 200 and "file-x" not in page.text, query


async def test_what_a_router_learned_of_a_model_stays(tmp_path):
    """A call that goes to one of three credentials is not what the model means."""
    async with world(f"sqlite:///{tmp_path}/book.db", inside=SPREAD, keys="[east-1, east-2, east-3]") as w:
        fleet = next(p.plugin for p in w.gateway.stack.placed if p.name == "fallback").fleet
        body = {"model": "east/gpt", "input": "hi"}
        made = (await w.raw("ann", "POST", "/v1/responses", json=body)).json()["id"]
        before = fleet._groups["east/gpt"]
        on = await w.raw("ann", "POST", "/v1/responses", json={**body, "previous_response_id": made})
        assert on.status_code == 200 and len(before[1].members) == 3 and fleet._groups["east/gpt"] is before

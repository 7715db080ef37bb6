"""The book: written behind the calls, whatever the store does meanwhile."""

import asyncio
import json
import string
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from objects_world import KEYS, stack_text, world
from sqlalchemy import update

import gwcore_objects.book
from gwcore.errors import AssemblyError, GatewayError, StoreUnavailable
from gwcore.gateway import Gateway
from gwcore.resources import Lease, Resources
from gwcore.sql import engine_of, writing
from gwcore.testing.conformance import PluginConformance
from gwcore.testing.fakes import call
from gwcore_objects import Objects
from gwcore_objects.book import KEPT, Book, Home, Kept, owner_key
from gwcore_objects.ids import named


class TestConformance(PluginConformance):
    kind = Objects
    config = {"store": "memory"}


@pytest.fixture
def away(monkeypatch):
    """A store that can be taken away and given back."""
    state = {"away": False, "writes": 0}
    for name in ("reading", "writing"):
        real = getattr(gwcore_objects.book, name)

        def asked(store, *more, real=real, name=name):
            state["writes"] += name == "writing"
            if state["away"]:
                raise StoreUnavailable("away")
            return real(store, *more)

        monkeypatch.setattr(gwcore_objects.book, name, asked)
    return state


async def test_a_store_that_is_away_denies(tmp_path, away):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        made = (await w.raw("ann", "POST", "/v1/files", content=b"x")).json()["id"]
        away["away"] = True
        before = len(w.east.up.requests)
        body = {"model": "east/gpt", "input": "hi", "previous_response_id": made}
        assert (await w.raw("bob", "GET", f"/v1/files/{made}")).status_code == 503
        assert (await w.raw("bob", "POST", "/v1/responses", json=body)).status_code == 503
        assert len(w.east.up.requests) == before
        assert (await w.raw("bob", "GET", "/v1/files")).status_code == 503
        assert (await w.raw("ann", "GET", f"/v1/files/{made}")).status_code == 200, "known by heart"
        free = {"model": "east/gpt", "input": "hi"}
        assert (await w.raw("bob", "POST", "/v1/responses", json=free)).status_code == 200


async def test_rows_wait_for_the_store(tmp_path, away, monkeypatch):
    monkeypatch.setattr(gwcore_objects.book, "_PAUSE", 0.01)
    store = f"sqlite:///{tmp_path}/book.db"
    async with world(store) as w:
        away["away"] = True
        made = (await w.raw("ann", "POST", "/v1/files", content=b"x")).json()["id"]
        writes = away["writes"]
        async with asyncio.timeout(5):
            while away["writes"] < writes + 3:
                await asyncio.sleep(0.01)
        assert w.plugin.book.waiting == 1 and w.plugin.health() == {"waiting": 1, "lost": 0}
        away["away"] = False
        async with asyncio.timeout(5):
            while w.plugin.book.waiting:
                await asyncio.sleep(0.01)
        assert made in await w.plugin.book.look([made])
        away["away"] = True
        late = (await w.raw("ann", "POST", "/v1/files", content=b"x")).json()["id"]
        away["away"] = False
    async with opened(store) as book:
        assert set(await book.look([made, late])) == {made, late}, "written at the end"


def opened(store, responses=3600.0):
    made = Book(Lease(Resources()).store(store), responses)
    return _Open(made)


class _Open:
    def __init__(self, book):
        self.book = book
        self.context = book.open()

    async def __aenter__(self):
        await self.context.__aenter__()
        return self.book

    async def __aexit__(self, *error):
        await self.context.__aexit__(*error)
        await engine_of(self.book._store).dispose()


async def written(book):
    async with asyncio.timeout(5):
        while book.waiting:
            await asyncio.sleep(0.01)


async def test_what_is_written_while_it_is_looked_for_is_found(store_url, monkeypatch):
    """The store is asked before the row is there, and answers when it is no longer waiting."""
    async with opened(store_url) as book:
        real = gwcore_objects.book.reading

        @asynccontextmanager
        async def slowly(store, *more):
            async with real(store, *more) as sql:
                yield Slow(sql, book)

        monkeypatch.setattr(gwcore_objects.book, "reading", slowly)
        book.note(Kept("f", "team:a", Home("u", 0), "file"))
        assert set(await book.look(["f"])) == {"f"}


class Slow:
    """A connection whose answer takes until nothing waits to be written."""

    def __init__(self, sql, book):
        self.sql, self.book = sql, book

    async def execute(self, statement):
        rows = (await self.sql.execute(statement)).all()
        assert rows == []
        await written(self.book)
        return rows


async def test_what_is_refused_for_good_holds_nobody_up(store_url, monkeypatch):
    async with opened(store_url) as book:
        book.note(Kept("a\0b", "team:a", Home("u", 0), "file"))
        book.note(Kept("x" * 600, "team:a", Home("u", 0), "file"))
        assert book.waiting == 0
        monkeypatch.setattr(gwcore_objects.book, "MOST", 3)
        for number in range(5):
            book.note(Kept(f"f{number}", "team:a", Home("u", 0), "file"))
        assert book.lost == 2
        await written(book)
        book.note(Kept("y", "team:a", Home("u", 0), None))
        await written(book)
        assert book.lost == 3
        book.note(Kept("z", owner_key("key:" + "k" * 400), Home("u", 1), "file"))
        await written(book)
        assert (await book.find("z", owner_key("key:" + "k" * 400), patient=False))[0] == [Home("u", 1)]


async def test_responses_are_forgotten_in_time(store_url):
    async with opened(store_url, responses=0.001) as book:
        for number in range(1200):
            book.note(Kept(f"resp_{number}", "team:a", Home("u", 0), "response"))
        book.note(Kept("file-1", "team:a", Home("u", 0), "file"))
        await written(book)
        await asyncio.sleep(0.01)
        assert await book.sweep() == 1200
        assert set(await book.look(["file-1", "resp_1"])) == {"file-1"}


async def test_the_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(gwcore_objects.book, "KNOWN", 10)
    async with opened(f"sqlite:///{tmp_path}/book.db") as book:
        for number in range(50):
            book.note(Kept(f"f{number}", "team:a", Home("u", 0), "file"))
        assert len(book._known) == 10
        await written(book)
        assert (await book.find("f1", "team:a", patient=False))[0] == [Home("u", 0)]
        assert (await book.find("f1", "team:b", patient=False)) == ([], True)
        book.forget("f1", [Home("u", 0)])
        await written(book)
        assert (await book.find("f1", "team:a", patient=False)) == ([], False)


async def test_an_id_that_is_there_more_than_once_is_forgotten_where_it_is_meant(store_url):
    """Of two tenants, as whoever got it from the cache has it, and at two upstreams, which may hand out the same."""
    here, there = Home("u", 0), Home("v", 0)
    async with opened(store_url) as book:

        async def of(owner):
            book._known.clear()
            return set((await book.find("r", owner, patient=False))[0])

        for owner, home in (("team:a", here), ("team:b", here), ("team:a", there), ("team:b", there)):
            book.note(Kept("r", owner, home, "response"))
        await written(book)
        assert await of("team:a") == await of("team:b") == {here, there}
        async with writing(book._store) as sql:
            await sql.execute(update(KEPT).where(KEPT.c.owner == "team:b").values(made=0))
        assert await book.sweep() == 2
        assert (await of("team:a"), await of("team:b")) == ({here, there}, set())
        book.forget("r", [there])
        await written(book)
        assert await of("team:a") == {here}


def test_owners_that_begin_alike_are_not_one():
    assert len({owner_key("key:" + "k" * 400 + end) for end in "ab"}) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("objects: {}", "objects: {}\n    when: {operations: [chat]}"), "remove its when"),
        (lambda text: text.replace("  - objects: {}\n", "") + "  - ratelimit\n  - objects\n  - cache\n", None),
        (lambda text: text.replace("  - objects: {}\n", "") + "  - cache\n  - objects\n", "after objects"),
        (lambda text: text.replace("objects: {}", "objects: {store: none}"), "names a store that does not exist"),
        (lambda text: text.replace("objects: {}", "objects: {shared_by: all}"), "shared_by"),
    ],
)
async def test_where_it_stands(tmp_path, change, words):
    text = stack_text("http://127.0.0.1:1", "http://127.0.0.1:1", f"sqlite:///{tmp_path}/book.db")
    gateway = Gateway(change(text))
    if words is None:
        async with gateway:
            return
    with pytest.raises((AssemblyError, GatewayError), match=words):
        await gateway.startup()


async def test_a_key_of_some_models_makes_no_batch(tmp_path):
    """Its body may name any model; what its team made it may read."""
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        made = (await w.raw("ann", "POST", "/v1/files", content=b"x")).json()["id"]
        admin = w.gateway.stack.placed[0].plugin.config.admin_key.get_secret_value()
        key = (await w.raw(admin, "POST", "/key/generate", json={"team_id": "a", "models": ["both"]})).json()["key"]
        assert (await w.raw(key, "GET", f"/v1/files/{made}")).status_code == 200
        assert (await w.raw(key, "POST", "/v1/batches", json={"input_file_id": made})).status_code == 403


async def test_nothing_of_it_in_metrics_and_health(tmp_path):
    async with world(f"sqlite:///{tmp_path}/book.db") as w:
        made = (await w.raw("ann", "POST", "/v1/files", content=b"x")).json()["id"]
        await w.raw("bob", "GET", f"/v1/files/{made}")
        shown = str(list(w.plugin.metrics())) + str(w.plugin.health())
        assert "'gwcore_objects_refused', value=1" in shown and made not in shown and KEYS["ann"] not in shown


TEXTS = st.text(string.ascii_letters + "é_", max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | TEXTS
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8)  # fmt: skip


@given(
    TREES,
    st.lists(st.one_of(st.integers(0, 2), TEXTS), max_size=4),
    st.booleans(),
    st.sampled_from(["file_id", "file_ids"]),
)
def test_an_id_is_found_at_any_depth(tree, way, ascii_only, name):
    inner = {name: "the-id" if name == "file_id" else ["other", "the-id"]}
    for step in way:
        inner = (
            [tree, inner] if isinstance(step, int) else {**(tree if isinstance(tree, dict) else {}), f"x{step}": inner}
        )
    made = call({"model": "m", "input": inner})
    made.raw = json.dumps(made.document, ensure_ascii=ascii_only).encode()
    assert "the-id" in named(made) and made.edited
    assert named(call({"model": "m", "input": tree})) == {}

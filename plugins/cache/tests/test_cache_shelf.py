"""The homes of answers: one contract; and what of an entry survives an enemy or a broken disk (C6, C7)."""

import asyncio
import contextlib
import re
import uuid

import pytest

from gwcore.resources import Store
from gwcore.usage import Cost, Usage
from gwcore_cache.entry import Entry
from gwcore_cache.seal import Plain, Sealed
from gwcore_cache.shelf import Turn, Wanted
from gwcore_cache.shelf.memory import MemoryShelf
from gwcore_cache.shelf.redis import RedisShelf
from gwcore_cache.shelf.sql import SqlShelf

SECRET = "kX9#mQ2$vL7@pR4!wT6&zB1^cN8*fD3%"
CANARY = "canary-7f3a9c1e5b2d8046-acf19e73"
HOMES = ["memory", "sqlite", "postgresql", "redis"]
REMOTE = ["sqlite", "postgresql", "redis"]


def entry(text="hello", *, scope="s", model="m", tags=(), ttl=60_000, now=None, cost=13):
    now = 1_800_000_000_000 if now is None else now
    return Entry(
        "openai.chat", "chat", "json", "", b"application/json", text.encode(), now, now + ttl, now + ttl, 5,
        Usage(input=7, output=3, fees={"request": 1}), Cost(cost, "stack", "v1", ("x",)), model, scope, tuple(tags),
    )  # fmt: skip


def key(n):
    return bytes([n]) * 32


class Home:
    """A shelf under test, its raw bytes, and a clock."""

    def __init__(self, where, tmp_path, envelope):
        kind, url = where
        self.kind, self.tmp = kind, tmp_path
        self.now = 1_800_000_000_000
        self.envelope = envelope
        self.namespace = f"t{uuid.uuid4().hex}"
        if kind == "memory":
            self.shelf = MemoryShelf(1 << 20, clock=lambda: self.now)
            return
        self.store = Store(url, kind)
        if kind == "redis":
            self.shelf = RedisShelf(self.store, envelope, namespace=self.namespace, timeout=5, lease=1)
        else:
            self.shelf = SqlShelf(self.store, envelope, capacity=1 << 20, timeout=5, clock=lambda: self.now)

    async def raw(self, key_, data=None):
        """The stored bytes, or put others in their place."""
        if self.kind == "redis":
            name = self.shelf._name("e", key_)
            if data is None:
                return await self.shelf._reads.ask("GET", name)
            return await self.shelf._reads.ask("SET", name, data)
        from sqlalchemy import select, update

        from gwcore.sql import reading, writing
        from gwcore_cache.shelf.sql import ENTRY

        if data is None:
            async with reading(self.store) as sql:
                found = (await sql.execute(select(ENTRY.c.data).where(ENTRY.c.key == key_))).scalar()
                return None if found is None else bytes(found)
        async with writing(self.store) as sql:
            return await sql.execute(update(ENTRY).where(ENTRY.c.key == key_).values(data=data))

    async def close(self):
        if self.kind == "redis":
            await self.shelf.purge(Wanted())
        elif self.kind != "memory":
            for value in self.store.shared.values():
                if hasattr(value, "aclose"):
                    await value.aclose()

    async def put(self, *pairs):
        turned = await self.shelf.turn(pairs[0][0], "s")
        return await self.shelf.put(pairs, pairs[0][0] if turned.turn is Turn.OURS else None, turned.epoch)

    async def get(self, *keys, scope="s"):
        return await self.shelf.get(list(keys), scope)


@contextlib.asynccontextmanager
async def opened(where, tmp_path, envelope):
    home, kind = Home(where, tmp_path, envelope), where[0]
    try:
        async with home.shelf.open():
            try:
                yield home
            finally:
                if kind == "redis":
                    await home.close()
    finally:
        if kind != "redis":
            await home.close()


@pytest.fixture
def where(request, tmp_path):
    kind = request.param
    if kind in {"postgresql", "redis"}:
        return kind, request.getfixturevalue("postgres_url" if kind == "postgresql" else "redis_url")
    return kind, f"sqlite:///{tmp_path}/cache.db"


@pytest.fixture
async def home(where, tmp_path):
    async with opened(where, tmp_path, Plain()) as home:
        yield home


@pytest.fixture
async def sealed(where, tmp_path):
    async with opened(where, tmp_path, Sealed(SECRET)) as home:
        yield home


EVERY = pytest.mark.parametrize("where", HOMES, indirect=True)


@EVERY
async def test_what_is_put_is_found(home):
    one, two = entry("one"), entry("two", cost=2)
    assert await home.put((key(1), one), (key(2), two))
    assert await home.get(key(2), key(9), key(1)) == [two, None, one]
    newer = entry("newer")
    assert await home.put((key(1), newer))
    assert await home.get(key(1)) == [newer]


@EVERY
async def test_it_ends(home):
    await home.put((key(1), entry(ttl=300 if home.kind == "redis" else 60_000)))
    if home.kind == "redis":  # whose clock is its own
        await asyncio.sleep(0.35)
    home.now += 60_000
    assert await home.get(key(1)) == [None]


TAGGED = {
    1: {"scope": "s", "model": "m", "tags": ("a",)},
    2: {"scope": "s", "model": "n", "tags": ("a", "b")},
    3: {"scope": "s", "model": "m", "tags": ()},
}


@EVERY
@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (Wanted(keys=(key(1), key(7))), {2, 3}),
        (Wanted(model="m"), {2}),
        (Wanted(tag="a"), {3}),
        (Wanted(tag="a", model="n"), {1, 3}),
        (Wanted(scope="s"), set()),
        (Wanted(scope="other"), {1, 2, 3}),
        (Wanted(tag="*"), {1, 2, 3}),
        (Wanted(), set()),
    ],
)
async def test_purge(home, wanted, left):
    for n, about in TAGGED.items():
        await home.put((key(n), entry(**about)))
    assert await home.shelf.purge(wanted) == 3 - len(left)
    found = await home.get(key(1), key(2), key(3))
    assert {n for n, one in zip((1, 2, 3), found, strict=True) if one} == left


@EVERY
async def test_an_answer_begun_before_a_purge_is_not_kept_after_it(home):
    turned = await home.shelf.turn(key(1), "s")
    await home.shelf.purge(Wanted(tag="nothing has it"))
    assert not await home.shelf.put([(key(1), entry())], key(1), turned.epoch)
    assert await home.get(key(1)) == [None]
    assert (await home.shelf.turn(key(1), "s")).turn is Turn.OURS
    assert await home.put((key(2), entry()))


@pytest.mark.parametrize("where", ["memory", "sqlite"], indirect=True)
async def test_the_oldest_go_when_it_is_full(home):
    if home.kind == "memory":
        home.shelf.capacity = 3 * entry("x" * 500).size
    else:
        home.shelf._capacity = 3 * entry("x" * 500).size
    for n in range(1, 6):
        await home.put((key(n), entry("x" * 500, now=home.now + n)))
    if home.kind == "sqlite":
        await home.shelf.sweep()
    found = await home.get(*(key(n) for n in range(1, 6)))
    assert [bool(one) for one in found] == [False, False, True, True, True]


@pytest.mark.parametrize("where", ["memory", "sqlite"], indirect=True)
async def test_one_that_is_larger_than_all_of_it_pushes_out_nobody(home):
    size = entry("x" * 500).size
    if home.kind == "memory":
        home.shelf.capacity = size
    else:
        home.shelf._capacity = size
    await home.put((key(1), entry("x" * 500)))
    await home.put((key(2), entry("x" * 501, now=home.now + 1)))
    if home.kind == "sqlite":
        await home.shelf.sweep()
    assert [bool(one) for one in await home.get(key(1), key(2))] == [True, False]


@EVERY
async def test_tags_that_begin_alike(home):
    """In a table they are cut to its columns: clients name them."""
    assert await home.put((key(1), entry(tags=("x" * 600 + "a", "x" * 600 + "b"))))
    assert await home.shelf.purge(Wanted(tag="x" * 600 + "a")) == 1


async def test_sweeping_forgets_what_has_ended(tmp_path):
    async with opened(("sqlite", f"sqlite:///{tmp_path}/cache.db"), tmp_path, Plain()) as home:
        await home.put((key(1), entry(tags=("a",))))
        home.now += 60_000
        await home.shelf.sweep()
        assert await home.raw(key(1)) is None
        assert await home.shelf.purge(Wanted(tag="a")) == 0


async def test_a_purge_reaches_the_other_workers(tmp_path):
    news = tmp_path / "news"
    one, two = MemoryShelf(1 << 20, news, clock=lambda: 0), MemoryShelf(1 << 20, news, clock=lambda: 0)
    async with one.open(), two.open():
        for shelf in (one, two):
            await shelf.put([(key(1), entry(model="m")), (key(2), entry(model="n"))], None, 0)
        assert await one.purge(Wanted(model="m")) == 1
        async with asyncio.timeout(5):
            while (await two.get([key(1)], "s"))[0] is not None:
                await asyncio.sleep(0.02)
        assert (await two.get([key(2)], "s"))[0] is not None


# ── whose turn it is, in Redis ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def fleet(redis_url):
    """Two workers."""
    store, namespace = Store(redis_url, "redis"), f"t{uuid.uuid4().hex}"
    one, two = (RedisShelf(store, Plain(), namespace=namespace, timeout=5, lease=3) for _ in range(2))
    async with one.open(), two.open():
        yield one, two
        await one.purge(Wanted())


async def test_one_worker_asks(fleet):
    one, two = fleet
    assert (await one.turn(key(1), "s")).turn is Turn.OURS
    await asyncio.sleep(4)  # longer than a lease: it is renewed
    assert (await two.turn(key(1), "s")).turn is Turn.OTHERS
    found = entry()
    assert await one.put([(key(1), found)], key(1), 0)
    turned = await two.turn(key(1), "s")
    assert (turned.turn, turned.entry) == (Turn.OURS, found)


async def test_a_turn_that_was_left_is_free(fleet):
    one, two = fleet
    await one.turn(key(1), "s")
    await two.leave(key(1), alone=False)  # not his to leave
    assert (await two.turn(key(1), "s")).turn is Turn.OTHERS
    await one.leave(key(1), alone=False)
    assert (await two.turn(key(1), "s")).turn is Turn.OURS
    await two.leave(key(1), alone=True)
    assert (await one.turn(key(1), "s")).turn is Turn.ALONE


async def test_a_dead_workers_turn_ends(fleet):
    one, two = fleet
    await one.turn(key(1), "s")
    one._turns.clear()  # as if it were gone: nobody renews
    async with asyncio.timeout(10):
        while (await two.turn(key(1), "s")).turn is not Turn.OURS:
            await asyncio.sleep(0.02)


async def test_scripts_that_the_server_lost_are_given_again(fleet):
    one, _ = fleet
    await one._reads.ask("SCRIPT FLUSH")
    assert (await one.turn(key(1), "s")).turn is Turn.OURS
    await one._reads.ask("SCRIPT FLUSH")
    assert await one.put([(key(1), entry())], key(1), 0)


# ── what was altered is no entry (C6) ────────────────────────────────────────────────────────────────────────────────

ENVELOPES = {"plain": Plain(), "sealed": Sealed(SECRET)}


@pytest.mark.parametrize("name", ENVELOPES)
def test_every_byte_counts(name):
    envelope, packed = ENVELOPES[name], entry().pack()
    kept = envelope.close(packed, key(1), "s")
    assert envelope.open(kept, key(1), "s") == packed
    for at in range(len(kept)):
        for flip in (1, 128):
            assert envelope.open(kept[:at] + bytes([kept[at] ^ flip]) + kept[at + 1 :], key(1), "s") is None
        assert envelope.open(kept[:at], key(1), "s") is None
    assert envelope.open(kept + b"x", key(1), "s") is None
    assert envelope.open(kept, key(2), "s") is None
    assert envelope.open(kept, key(1), "t") is None


def test_another_secret_version_or_envelope_opens_nothing(monkeypatch):
    import gwcore_cache.seal as module

    packed = entry().pack()
    kept = {name: envelope.close(packed, key(1), "s") for name, envelope in ENVELOPES.items()}
    assert Sealed(SECRET[::-1]).open(kept["sealed"], key(1), "s") is None
    assert Sealed(SECRET).open(kept["plain"], key(1), "s") is None
    assert Plain().open(kept["sealed"], key(1), "s") is None
    monkeypatch.setattr(module, "_PLAIN", b"gwcP\x02")
    monkeypatch.setattr(module, "_SEALED", b"gwcS\x02")
    for name, envelope in (("plain", Plain()), ("sealed", Sealed(SECRET))):
        assert envelope.open(kept[name], key(1), "s") is None


@pytest.mark.parametrize("damage", [b"", b"\0\0\0\1{}", b"\0\0\0\2[]", b"\xff\xff\xff\xff{", b"\0\0\0\2{}x"])
def test_what_is_no_entry_is_said_to_be_none(damage):
    with pytest.raises(ValueError):
        Entry.unpack(damage)


@pytest.mark.parametrize("where", REMOTE, indirect=True)
async def test_damage_in_the_store_is_a_miss_and_goes(sealed):
    home = sealed
    damage = {
        "flipped": lambda mine, _other: mine[:-1] + bytes([mine[-1] ^ 1]),
        "swapped": lambda _mine, other: other,
        "other scope": lambda _mine, _other: home.envelope.close(entry("theirs", scope="t").pack(), key(1), "t"),
        "other secret": lambda _mine, _other: Sealed(SECRET[::-1]).close(entry().pack(), key(1), "s"),
        "unsealed": lambda _mine, _other: Plain().close(entry("forged").pack(), key(1), "s"),
        "old version": lambda mine, _other: mine[:4] + b"\0" + mine[5:],
        "empty": lambda _mine, _other: b"",
    }
    for what, made in damage.items():
        await home.put((key(1), entry("mine")), (key(2), entry("other")))
        await home.raw(key(1), made(await home.raw(key(1)), await home.raw(key(2))))
        found = await home.get(key(1), key(2))
        assert (found[0], found[1].body) == (None, b"other"), what
        async with asyncio.timeout(5):
            while await home.raw(key(1)) is not None:
                await asyncio.sleep(0.01)


def test_control_a_checksum_of_the_body_alone_is_caught():
    class Careless(Plain):
        def close(self, packed, key, scope):
            return super().close(packed, b"k" * 32, "")

        def open(self, kept, key, scope):
            return super().open(kept, b"k" * 32, "")

    kept = Careless().close(entry().pack(), key(1), "s")
    assert Careless().open(kept, key(2), "t") is not None


# ── what others can read (C7) ────────────────────────────────────────────────────────────────────────────────────────


async def strings(home):
    """Everything printable that the store holds, as strings(1) finds it."""
    if home.kind == "redis":
        held = b""
        for name in await home.shelf._reads.ask("KEYS", home.shelf._prefix + "*"):
            held += name + (await home.shelf._reads.ask("DUMP", name) or b"")
    else:
        held = b"\0".join(file.read_bytes() for file in sorted(home.tmp.glob("cache.db*")))
    return b"\n".join(re.findall(rb"[\t -~]{4,}", held)).decode()


@pytest.mark.parametrize("where", ["sqlite", "redis"], indirect=True)
@pytest.mark.parametrize("closed", [True, False])
async def test_nothing_readable_is_stored(where, closed, tmp_path):
    """Sealed, no word of an answer is in the store; unsealed it is: the test can see it."""
    async with opened(where, tmp_path, Sealed(SECRET) if closed else Plain()) as home:
        if home.kind == "redis":  # which packs long texts in a dump
            await home.shelf._reads.ask("CONFIG SET", "rdbcompression", "no")
        await home.put((key(1), entry(f"answer {CANARY}")))
        assert (await home.get(key(1)))[0].body.endswith(CANARY.encode())
        assert (CANARY in await strings(home)) is not closed

"""A store that does not answer is a 503: never a 401, and never an identity. Any other error denies (I10)."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from gwcore.call import Principal
from gwcore.sql import writing
from gwcore_auth.book import Book
from gwcore_auth.grants import Grant
from gwcore_auth.keys import mint
from gwcore_auth.plugin import Auth
from gwcore_auth.resolve import Resolver


class Outage:
    """A database that refuses every connection, or lets every statement wait."""

    def __init__(self, server, url, kind):
        self.server = server
        self.url = url
        self.kind = kind
        self.name = urlsplit(url).path[1:]

    async def __aenter__(self):
        if self.kind == "hangs":
            self.lock = await asyncpg.connect(self.url)
            await self.lock.execute("BEGIN")
            tables = "auth_key, auth_secret, auth_team, auth_user, auth_clock, auth_change"
            await self.lock.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            return
        connection = await asyncpg.connect(self.server)
        await connection.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", self.name)
        await connection.close()

    async def __aexit__(self, *_):
        if self.kind == "hangs":
            await self.lock.close()
            return
        connection = await asyncpg.connect(self.server)
        await connection.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")
        await connection.close()


async def until(api, key, status):
    """Ask until that is the answer; everything that was answered before it."""
    said = []
    async with asyncio.timeout(30):
        while True:
            answer = await api.chat(key)
            if answer.status_code == status:
                return said
            said.append(answer.status_code)
            await asyncio.sleep(0.05)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["is gone", "hangs"])
async def test_an_outage_is_a_503_and_cached_keys_outlive_it_by_the_ttl(
    serve, postgres_server, postgres_url, upstream, kind
):
    async with serve(postgres_url, auth="refresh: 0.1, ttl: 3") as api:
        cached, fresh = await api.key(), await api.key()
        assert (await api.chat(cached)).status_code == 200
        async with Outage(postgres_server, postgres_url, kind):
            assert (await api.chat(cached)).status_code == 200  # memory knows it
            for key in (fresh, mint(), "sk-nonsense"):
                seen = len(upstream.requests)
                refused = await api.chat(key)
                assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1, key
                assert len(upstream.requests) == seen
            assert (await api.raw("GET", "/key/list", key=fresh)).status_code == 503
            assert (await api.raw("POST", "/key/generate", json={})).status_code == 503
            assert set(await until(api, cached, 503)) <= {200}  # after the ttl, memory is too old to be believed
            assert api.auth.health()["store"] == "failing" and api.auth.health()["degraded"]
        assert set(await until(api, cached, 200)) <= {503}
        assert set(await until(api, fresh, 200)) <= {503}
        assert (await api.chat(mint())).status_code == 401


async def test_sqlite_without_its_tables_is_a_503_too(sqlite_api, upstream):
    key = await sqlite_api.key()
    async with writing(sqlite_api.auth.book.store) as sql:
        await sql.execute(text("ALTER TABLE auth_secret RENAME TO away"))
    assert (await sqlite_api.chat(key)).status_code == 503
    async with writing(sqlite_api.auth.book.store) as sql:
        await sql.execute(text("ALTER TABLE away RENAME TO auth_secret"))
    assert (await sqlite_api.chat(key)).status_code == 200
    assert len(upstream.requests) == 1


ERRORS = [
    ValueError,
    KeyError,
    RuntimeError,
    TimeoutError,
    OSError,
    AssertionError,
    UnicodeError,
    MemoryError,
    LookupError,
]
PLACES = [(Book, "one"), (Resolver, "key_of"), (Resolver, "belonging"), (Auth, "identify")]


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda value: getattr(value, "__name__", value))
async def test_i10_no_error_is_an_identity(sqlite_api, upstream, monkeypatch, owner, name):
    """CVE-2026-59822: whatever goes wrong in here, nobody gets in: with a good key, a bad one, on both planes."""
    key = await sqlite_api.key()
    for error in ERRORS:

        async def fails(*_, error=error, **__):
            raise error("injected")

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fails)
            sqlite_api.auth.cache.clear()
            for stream in (False, True):
                answer = await sqlite_api.chat(key, stream=stream)
                assert answer.status_code in {500, 503} and "injected" not in answer.text, (error, answer.text)
                assert (await sqlite_api.chat(mint(), stream=stream)).status_code in {401, 500, 503}
            if owner is not Auth:
                told = await sqlite_api.raw("GET", "/key/info", key=key)
                assert told.status_code in {500, 503} and "injected" not in told.text, (error, told.text)
    assert upstream.requests == []
    assert (await sqlite_api.chat(key)).status_code == 200  # and no failure was remembered


async def test_i10_nothing_found_is_nobody(sqlite_api, upstream, monkeypatch):
    key = await sqlite_api.key()

    async def nothing(*_, **__):
        return None

    for owner, name in ((Book, "one"), (Resolver, "key_of"), (Auth, "identify")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, nothing)
            sqlite_api.auth.cache.clear()
            assert (await sqlite_api.chat(key)).status_code == 401
            if owner is not Auth:
                assert (await sqlite_api.raw("GET", "/key/info", key=key)).status_code == 401
    assert upstream.requests == []


async def test_i10_the_test_can_fail(sqlite_api, monkeypatch):
    """Negative control: the flaw itself, an error that becomes an empty identity, is seen by what the tests above look at."""
    original = Auth.identify

    async def swallows(self, text):
        try:
            return await original(self, text)
        except Exception:
            return Grant(Principal(""))

    async def fails(*_, **__):
        raise ValueError

    monkeypatch.setattr(Auth, "identify", swallows)
    monkeypatch.setattr(Resolver, "key_of", fails)
    assert (await sqlite_api.chat(mint())).status_code == 200

"""A worker that stood still trusts nothing of what it kept."""

import asyncio

import pytest
from sqlalchemy import delete, select, update

from gwcore.sql import writing
from gwcore_auth.tables import CHANGE, CLOCK, KEY, SECRET


async def test_a_key_blocked_while_a_worker_stood_still_is_not_let_in_for_an_end_user(upstream, serve, sqlite_url):
    """A worker that was stopped for longer than ``ttl`` trusts nothing it kept, but what the key was made into for an end user."""
    async with serve(sqlite_url) as one, serve(sqlite_url) as other:
        key = await one.key()
        assert (await one.chat(key, user="e")).status_code == 200
        feed = one.auth.feed
        for task in feed._tasks:  # it stands still
            task.cancel()
        await asyncio.sleep(0)
        await other.post("/key/block", {"key": key})
        feed.good_until = 0.0  # for longer than ttl
        with_end_user = (await one.chat(key, user="e")).status_code
        assert (await one.chat(key)).status_code == 401
        assert with_end_user == 401


@pytest.mark.parametrize("more", [0, 1], ids=["as many", "more"])
async def test_what_is_written_behind_a_snapshot_that_was_put_back_is_not_taken_for_what_was_lost(
    upstream, serve, sqlite_url, more
):
    """A failover to a store of two seconds ago: the next changes have the numbers of those that it lost."""
    async with serve(sqlite_url, auth="refresh: 60") as one, serve(sqlite_url, auth="refresh: 60") as other:
        key, book, feed = await one.key(), one.auth.book, one.auth.feed
        await feed._read()
        (then, _), _ = await book.changes(None)
        lost = await one.key(key_alias="lost")
        assert (await one.chat(key)).status_code == (await one.chat(lost)).status_code == 200
        await feed._read()
        async with writing(book.store) as sql:  # what the snapshot does not have
            ids = (await sql.execute(select(KEY.c.id).where(KEY.c.alias == "lost"))).scalars().all()
            await sql.execute(delete(SECRET).where(SECRET.c.key_id.in_(ids)))
            await sql.execute(delete(KEY).where(KEY.c.id.in_(ids)))
            await sql.execute(delete(CHANGE).where(CHANGE.c.seq > then))
            await sql.execute(update(CLOCK).values(seq=then))
        await other.post("/key/block", {"key": key})
        for _ in range(more):
            await other.key()
        assert (await book.changes(None))[0].seq == feed._since.seq + more
        await feed._read()
        assert (await one.chat(key)).status_code == (await one.chat(lost)).status_code == 401


async def test_after_a_quiet_day_a_change_is_of_what_changed_alone(upstream, serve, sqlite_url):
    """Old changes are let go, but the one that others have read up to."""
    async with serve(sqlite_url, auth="refresh: 60") as one, serve(sqlite_url, auth="refresh: 60") as other:
        await one.key()
        key, feed = await one.key(), one.auth.feed
        assert (await one.chat(key)).status_code == 200
        async with writing(one.auth.book.store) as sql:
            await sql.execute(update(CHANGE).values(at=CHANGE.c.at - 86_400_000))
        await feed._read()
        assert (await one.chat(key)).status_code == 200
        known = dict(one.auth.cache.grants)
        assert known
        await other.key()
        await feed._read()
        assert one.auth.cache.grants == known
        (_, kept), _ = await one.auth.book.changes(None)
        assert kept is not None

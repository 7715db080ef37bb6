"""A worker that stood still trusts nothing of what it kept."""

import asyncio


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

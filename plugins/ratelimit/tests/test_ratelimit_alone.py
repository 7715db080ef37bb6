"""Workers that decide by themselves: shares of large calls, of nothing, of shadows, and what they tell the home when it is back."""

import uuid

import pytest

from gwcore_ratelimit.gcra import BUCKETS, SECOND, Limit
from gwcore_ratelimit.guard import FAILURES, Guard
from gwcore_ratelimit.memory import Memory
from gwcore_ratelimit.redis import RedisHome
from gwcore_ratelimit.table import StoreDown


class Away:
    async def admit(self, charges, lease, floors):
        raise StoreDown("away")

    def settle(self, *_):
        pass


async def test_workers_alone_do_not_exceed_a_strict_limit_together():
    """1 per minute, strict, four workers, no store: three of them have a share of nothing."""
    strict = Limit("s", "requests", 1, 60 * SECOND, 1, -(-60 * SECOND // BUCKETS), ("key",))
    admitted = 0
    for rank in range(4):
        guard = Guard(Away(), lambda rank=rank: (4, rank))
        for _ in range(FAILURES + 10):
            admitted += (await guard.admit([(strict, "s:k", 1)], "l")).refused < 0
    assert admitted <= 1


async def test_a_shadow_limit_of_places_leaves_none_held(tmp_path):
    """Workers that share a machine's memory: what a shadow limit would have refused is held nowhere."""
    shadow = Limit("p", "parallel", 1, 0, 1, scopes=("key",), shadow=True)
    home = Memory(tmp_path)
    guard = Guard(home, lambda: (2, 0))
    try:
        for n in range(10):
            charge = [(shadow, "p:k", 1)]
            verdicts = [await guard.admit(charge, f"{n}{x}") for x in "ab"]
            for verdict in verdicts:  # as RateLimit._settle does
                if 0 not in verdict.shadowed:
                    guard.settle([(shadow, "p:k", -1, 0)], "l", local=verdict.local)
        assert (home.held, guard.held) == (0, 0)
    finally:
        await home.aclose()


async def test_a_shadow_limit_of_places_never_fails_a_call(tmp_path):
    """However often it would have refused."""
    shadow = Limit("p", "parallel", 1, 0, 1, scopes=("key",), shadow=True)
    home = Memory(tmp_path)
    guard = Guard(home, lambda: (2, 0))
    try:
        await guard.admit([(shadow, "p:k", 1)], "first")
        for n in range(66_000):
            assert (await guard.admit([(shadow, "p:k", 1)], str(n))).refused < 0
    finally:
        await home.aclose()


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_a_floor_outlives_the_call_that_it_refuses(kind, redis_url):
    """What was used without redis is told with the next charge; where that is refused, redis keeps nothing of it, and is told again."""
    tokens = Limit("t", "tokens", 1000, 60 * SECOND, 1000, scopes=("key",))
    if kind == "memory":
        home = Memory()
    else:
        home = RedisHome(redis_url, timeout=5, lease=15, prefix=f"{{t{uuid.uuid4().hex}}}:")
        await home.enter()
    away = True

    class Flaky:
        async def admit(self, charges, lease, floors):
            if away:
                raise StoreDown("away")
            return await home.admit(charges, lease, floors)

        def settle(self, *_):
            pass

    now = 10**12
    guard = Guard(Flaky(), lambda: (1, 0), clock=lambda: now)
    for n in range(4):
        assert (await guard.admit([(tokens, "t:k", 250)], str(n))).refused < 0  # all of it, alone
    away, now = False, now + 2 * SECOND
    assert (await guard.admit([(tokens, "t:k", 250)], "refused")).refused == 0  # 8 s too early
    now += 2 * SECOND  # everybody has seen that it is back
    verdict = await guard.admit([(tokens, "t:k", 1000)], "all")
    if kind == "redis":
        await home.leave()
    assert verdict.refused == 0, "1000 of 1000 tokens again, 4 s later"


async def test_tokens_used_alone_stay_within_the_limit_where_calls_are_larger_than_a_share():
    """A call that is larger than its worker's share owes what the share could not hold."""
    tokens = Limit("t", "tokens", 1000, 60 * SECOND, 1000, scopes=("key",))
    now, used = 10**12, 0
    guards = [Guard(Away(), lambda rank=rank: (4, rank), clock=lambda: now) for rank in range(4)]
    for _ in range(600):
        now += SECOND
        for guard in guards:
            verdict = await guard.admit([(tokens, "t:k", 1000)], "l")
            if verdict.refused < 0:  # it uses what was estimated: nothing to correct
                used += 1000
    assert used <= 1000 + 10 * 1000 + 4 * 1000  # burst, ten minutes, and one call too much of every worker


async def test_a_refund_alone_gives_back_no_more_than_was_charged():
    tokens = Limit("t", "tokens", 1000, 60 * SECOND, 1000, scopes=("key",))
    guard = Guard(Away(), lambda: (4, 0), clock=lambda: 10**12)
    large = await guard.admit([(tokens, "t:k", 1000)], "large")
    assert (await guard.admit([(tokens, "t:k", 1)], "next")).refused == 0, "a share is 250, and it owes the rest"
    guard.settle([(tokens, "t:k", 10 - 1000, 0)], "large", local=large.local)  # it used 10 of what was estimated
    assert (await guard.admit([(tokens, "t:k", 0)], "look")).readings[0][0] == 240

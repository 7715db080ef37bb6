"""Workers that decide by themselves: shares of large calls, of nothing, of shadows, and what they tell the home when it is back."""

import asyncio
import uuid
from contextlib import asynccontextmanager

import pytest

from gwcore_ratelimit import guard as guard_
from gwcore_ratelimit.gcra import BUCKETS, SECOND, Limit, refunds
from gwcore_ratelimit.guard import FAILURES, Guard
from gwcore_ratelimit.memory import Memory
from gwcore_ratelimit.redis import RedisHome
from gwcore_ratelimit.table import StoreDown


class Away:
    async def admit(self, charges, lease, floors):
        raise StoreDown("away")

    def settle(self, *_, **_named):
        pass

    def settle_not(self, *_, **_named):
        raise StoreDown("away")


async def test_workers_alone_do_not_exceed_a_strict_limit_together():
    """1 per minute, strict, four workers, no store: three of them have a share of nothing."""
    strict = Limit("s", "requests", 1, 60 * SECOND, 1, -(-60 * SECOND // BUCKETS), ("key",))
    admitted = 0
    for rank in range(4):
        guard = Guard(Away(), lambda rank=rank: (4, rank))
        for _ in range(FAILURES + 10):
            admitted += (await guard.admit([(strict, "s:k", 1)], "l")).refused < 0
    assert admitted <= 1


async def test_what_the_home_has_left_of_a_strict_window_is_shared_out_when_it_goes_away():
    """Half of the window is used, by both workers in turn, when the home goes away."""
    strict = Limit("s", "requests", 12, 60 * SECOND, 12, 5 * SECOND, ("key",))
    home = Memory(clock=lambda: 10**12)
    guards = [Guard(home, lambda rank=rank: (2, rank), clock=lambda: 10**12) for rank in range(2)]
    admitted = 0
    for n in range(6):
        admitted += (await guards[n % 2].admit([(strict, "s:k", 1)], str(n))).refused < 0
    assert admitted == 6
    home.admit = Away().admit
    for guard in guards:
        for n in range(FAILURES + 10):
            admitted += (await guard.admit([(strict, "s:k", 1)], str(n))).refused < 0
    assert admitted <= strict.amount


@asynccontextmanager
async def strict_outage(monkeypatch, seconds=2):
    """Two workers use up a strict window while their home is away, and each has noticed that it is back."""
    strict = Limit("s", "requests", 12, 60 * SECOND, 12, 5 * SECOND, ("key",))
    now = [10**12]
    home = Memory(clock=lambda: now[0])
    guards = [Guard(home, lambda rank=rank: (2, rank), clock=lambda: now[0]) for rank in range(2)]

    async def use(count):
        admitted = 0
        for n in range(count):
            admitted += (await guards[n % 2].admit([(strict, "s:k", 1)], str(n))).refused < 0
        return admitted

    with monkeypatch.context() as patched:
        patched.setattr(home, "admit", Away().admit)
        assert await use(40) == 12
    now[0] += seconds * SECOND
    for n, guard in enumerate(guards):  # calls that this limit does not count find it back
        await guard.admit([(Limit("r", "requests", 9, SECOND, 9, scopes=("key",)), "r:k", 1)], f"r{n}")
    now[0] += 2 * SECOND
    assert not any(guard.degraded_since for guard in guards)
    yield use, now, guards, home


async def test_what_a_strict_window_used_without_the_home_is_told_when_it_is_back(monkeypatch):
    async with strict_outage(monkeypatch) as (use, now, _, _):
        assert await use(40) == 0, "within the same minute"
        now[0] += 70 * SECOND
        assert await use(40) == 12


async def test_what_a_strict_window_used_longer_ago_than_its_period_is_not_told(monkeypatch):
    async with strict_outage(monkeypatch, 60) as (use, _, _, _):
        assert await use(40) == 12


async def test_what_many_keys_used_is_told_in_parts(monkeypatch):
    async with strict_outage(monkeypatch) as (use, _, guards, home):
        strict = Limit("s", "requests", 12, 60 * SECOND, 12, 5 * SECOND, ("key",))
        keys = [f"s:{n}" for n in range(250)]
        for key in keys:
            guards[0].settle([(strict, key, 12, 0)], "l", local=True)
        told = []
        monkeypatch.setattr(home, "settle", lambda changes, *_, **__: told.append([key for _, key, _, _ in changes]))
        await use(1)
        assert [key for part in told for key in part] == keys and len(told) == 3
        await use(1)
        assert len(told) == 3


async def test_a_call_that_ended_without_the_home_owes_what_it_used(monkeypatch):
    """Its tokens were an estimate: what it used beyond that counts, and no answer makes it owe less than nothing."""
    async with strict_outage(monkeypatch) as (use, now, guards, _):
        now[0] += 10 * SECOND
        strict = Limit("s", "requests", 12, 60 * SECOND, 12, 5 * SECOND, ("key",))
        for guard, more in zip(guards, (6, -20), strict=True):
            guard.settle([(strict, "s:k", more, 0)], "l", local=True)
        assert await use(2) == 0
        now[0] += 60 * SECOND  # what was told first has left the window; what was told now has not
        assert await use(40) == 6


async def test_negative_control_who_tells_nothing_admits_a_window_twice(monkeypatch):
    monkeypatch.setattr(Guard, "_owe", lambda *_: None)
    with pytest.raises(AssertionError):
        await test_what_a_strict_window_used_without_the_home_is_told_when_it_is_back(monkeypatch)


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

        def settle(self, *_, **_named):
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


@asynccontextmanager
async def at_redis(url):
    home = RedisHome(url, timeout=5, lease=15, prefix=f"{{t{uuid.uuid4().hex}}}:")
    await home.enter()
    try:
        yield home
    finally:
        await home.leave()


async def test_what_redis_admitted_is_given_back_where_this_worker_cannot_count_it(redis_url):
    """More keys with places than a worker can mirror: the call is refused, and holds no place and no request anywhere."""
    place, other = (Limit(name, "parallel", 1, 0, 1, scopes=("key",)) for name in "po")
    requests = Limit("r", "requests", 10, 60 * SECOND, 10, scopes=("key",))
    async with at_redis(redis_url) as home:
        guard = Guard(home, lambda: (1, 0))
        guard._local = Memory(rows=8)  # one row of places
        charges = [(requests, "r:k", 1), (place, "p:k", 1), (other, "o:k", 1)]
        with pytest.raises(StoreDown):
            await guard.admit(charges, "first")
        assert guard.held == 0 and not home.leases
        verdict = await home.admit(charges, "second", {})
        assert verdict.refused < 0 and verdict.readings[0][0] == 9


async def away(guard, home):
    """Until the guard knows that its home is."""
    client, home._client = home._client, None
    nothing = Limit("n", "requests", 10, 60 * SECOND, 10, scopes=("key",))
    for n in range(FAILURES):
        assert (await guard.admit([(nothing, "n:k", 1)], str(n))).local
    assert guard.degraded_since is not None
    return client


async def test_a_call_that_ends_while_redis_is_away_holds_no_place_when_it_is_back(redis_url):
    place = Limit("p", "parallel", 1, 0, 1, scopes=("key",))
    now = 10**12
    async with at_redis(redis_url) as home:
        guard = Guard(home, lambda: (1, 0), clock=lambda: now)
        first = await guard.admit([(place, "p:k", 1)], "first")
        client = await away(guard, home)
        guard.settle([(place, "p:k", -1, 0)], "first", local=first.local)
        home._client, now = client, now + 2 * SECOND
        await guard.admit([(place, "p:other", 1)], "second")  # finds it back
        await home.flush()
        assert (await guard.admit([(place, "p:k", 1)], "third")).refused < 0
        assert len(home.leases) == 2


async def test_a_call_admitted_without_the_machine_s_memory_ends_there_as_nothing(tmp_path, monkeypatch):
    """Its lock could not be had: there the call holds no place that could end."""
    place = Limit("p", "parallel", 2, 0, 2, scopes=("key",))
    home = Memory(tmp_path)
    guard = Guard(home, lambda: (1, 0))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(home, "admit", Away().admit)
            alone = await guard.admit([(place, "p:k", 1)], "first")
        assert alone.local
        there = await guard.admit([(place, "p:k", 1)], "second")
        assert not there.local
        guard.settle([(place, "p:k", -1, 0)], "first", local=True)
        assert (home.held, guard.held) == (1, 1)
        guard.settle([(place, "p:k", -1, 0)], "second", local=False)
        assert (home.held, guard.held) == (0, 0)
    finally:
        await home.aclose()


async def test_an_end_that_the_machine_s_memory_did_not_hear_is_told_again(tmp_path, monkeypatch):
    place = Limit("p", "parallel", 1, 0, 1, scopes=("key",))
    home = Memory(tmp_path)
    guard = Guard(home, lambda: (1, 0))

    def held_up(*_, **_named):
        raise StoreDown("locked")

    try:
        await guard.admit([(place, "p:k", 1)], "first")
        with monkeypatch.context() as patched, pytest.raises(StoreDown):
            patched.setattr(home, "settle", held_up)
            guard.settle([(place, "p:k", -1, 0)], "first", local=False)
        assert home.held == 1
        await guard.admit([(place, "p:other", 1)], "second")
        assert (await guard.admit([(place, "p:k", 1)], "third")).refused < 0
        assert home.held == 2
    finally:
        await home.aclose()


async def test_a_request_that_a_void_call_gives_back_can_be_used_here():
    once = Limit("r", "requests", 1, 60 * SECOND, 1, scopes=("key",))
    guard = Guard(Memory(clock=lambda: 10**12), lambda: (1, 0), clock=lambda: 10**12)
    first = await guard.admit([(once, "r:k", 1)], "first")
    assert (await guard.admit([(once, "r:k", 1)], "second")).refused == 0
    guard.settle(refunds([(once, "r:k", 1)], first), "first", local=first.local)
    assert (await guard.admit([(once, "r:k", 1)], "third")).refused < 0


async def test_a_limit_that_was_raised_is_no_longer_refused_for_what_it_was():
    day = 86_400 * SECOND
    now = 10**12
    guard = Guard(Memory(clock=lambda: now), lambda: (1, 0), clock=lambda: now)
    small, large = (Limit("r", "requests", amount, day, amount, scopes=("key",)) for amount in (1, 100_000))
    refused = [(await guard.admit([(small, "r:k", 1)], str(n))).refused for n in range(3)]
    assert refused == [-1, 0, 0]
    now += 600 * SECOND
    assert (await guard.admit([(large, "r:k", 1)], "more")).refused < 0


@pytest.mark.parametrize("order", ["abcd", "dcba"])
async def test_a_shadow_limit_of_places_after_an_outage_is_held_as_often_as_it_ends(order):
    """The share and the home need not agree on which calls are in its shadow; the limit beside it is not to suffer from that."""
    shadow = Limit("s", "parallel", 3, 0, 3, scopes=("key",), shadow=True)
    place = Limit("p", "parallel", 20, 0, 20, scopes=("key",))
    charges = [(shadow, "s:k", 1), (place, "p:k", 1)]
    now = 10**12
    home = Memory(clock=lambda: now)
    guard = Guard(home, lambda: (3, 0), clock=lambda: now)  # its share of the shadow limit is 1
    admit, home.admit = home.admit, Away().admit
    for n in range(FAILURES):
        verdict = await guard.admit(charges, str(n))
        guard.settle(refunds(charges, verdict), str(n), local=verdict.local)
    now, home.admit = now + 2 * SECOND, admit
    verdicts = {}
    for call in "abcd":  # the share is in the shadow from the second, the home from the fourth
        verdicts[call] = await guard.admit(charges, call)
        assert verdicts[call].refused < 0
    assert guard._now() < guard._settled_at
    for call in order:
        guard.settle(refunds(charges, verdicts[call]), call, local=verdicts[call].local)
    assert (home.held, guard.held) == (0, 0)


async def test_a_place_that_only_the_home_has_in_the_shadow_is_given_back_here():
    shadow = Limit("s", "parallel", 4, 0, 4, scopes=("key",), shadow=True)
    now = 10**12
    home = Memory(clock=lambda: now)
    guard = Guard(home, lambda: (2, 0), clock=lambda: now)
    home.decide([(shadow, "s:k", 1)] * 4)  # other workers'
    guard._settled_at = now + SECOND
    verdict = await guard.admit([(shadow, "s:k", 1)], "a")
    assert verdict.shadowed == (0,) and guard.held == 0


async def until_free(guard, place):
    """Another worker's calls, until one is admitted; which then ends."""
    async with asyncio.timeout(10):
        while (await guard.admit([(place, "p:k", 1)], "other")).refused >= 0:
            await asyncio.sleep(0.05)
    guard.settle([(place, "p:k", -1, 0)], "other", local=False)


async def test_an_end_that_the_machine_s_memory_did_not_hear_is_told_by_a_worker_without_calls(tmp_path, monkeypatch):
    monkeypatch.setattr(guard_, "PAUSE", SECOND // 10)
    place = Limit("p", "parallel", 1, 0, 1, scopes=("key",))
    homes = Memory(tmp_path), Memory(tmp_path)
    idle, busy = (Guard(home, lambda rank=rank: (2, rank)) for rank, home in enumerate(homes))
    try:
        await idle.admit([(place, "p:k", 1)], "first")
        with monkeypatch.context() as patched, pytest.raises(StoreDown):
            patched.setattr(homes[0], "settle", Away().settle_not)
            idle.settle([(place, "p:k", -1, 0)], "first", local=False)
        assert (await busy.admit([(place, "p:k", 1)], "second")).refused == 0
        await until_free(busy, place)
    finally:
        for home in homes:
            await home.aclose()


async def test_a_call_that_ends_while_redis_is_away_is_told_by_a_worker_without_calls(redis_url, monkeypatch):
    """Nor does it renew the place for ever, that nobody holds."""
    monkeypatch.setattr(guard_, "PAUSE", SECOND // 10)
    place = Limit("p", "parallel", 1, 0, 1, scopes=("key",))
    async with at_redis(redis_url) as home:
        idle, busy = Guard(home, lambda: (2, 0)), Guard(home, lambda: (2, 1))
        first = await idle.admit([(place, "p:k", 1)], "first")
        client = await away(idle, home)
        idle.settle([(place, "p:k", -1, 0)], "first", local=first.local)
        await asyncio.sleep(0.3)  # looks, and finds nothing
        home._client = client
        await until_free(busy, place)
        assert not home.leases and idle.degraded_since is None


async def test_rows_that_are_over_are_found_behind_many_that_are_in_use():
    """And where none is over, the whole table is looked at once a second, not for every new key."""
    now, looks = 10**12, 0
    home = Memory(clock=lambda: now, rows=1024)

    class Rows(type(home._rates)):
        def items(self):
            nonlocal looks
            looks += 1
            return super().items()

    rates = home._rates = Rows(1024)
    day, short = (Limit(name, "requests", 1, period * SECOND, 1) for name, period in (("d", 86_400), ("s", 1)))
    for n in range(700):
        home.decide([(day, f"d:{n}", 1)])
    for n in range(324):
        home.decide([(short, f"s:{n}", 1)])
    now += 10 * SECOND
    for n in range(324):
        assert home.decide([(day, f"n:{n}", 1)]).refused < 0
    assert (looks, len(rates)) == (1, 1024)
    for n in range(40):
        now += SECOND // 10
        with pytest.raises(StoreDown):
            home.decide([(day, f"o:{n}", 1)])
    assert looks == 5
    assert home.decide([(day, "d:0", 1)]).refused == 0, "none in use was taken"


@pytest.mark.parametrize("shared", [False, True])
async def test_a_table_that_is_full_takes_the_rows_that_are_over_and_none_that_is_in_use(shared, tmp_path):
    now = 10**12
    home = Memory(tmp_path if shared else None, clock=lambda: now, rows=8)
    rate = Limit("r", "requests", 60, 60 * SECOND, 60, scopes=("key",))

    def left(keys):
        return [reading[0] for reading in home.decide([(rate, f"r:{key}", 1) for key in keys]).readings]

    assert left("abcdefgh") == [59] * 8
    for keys in "i", "ai":
        with pytest.raises(StoreDown):
            left(keys)
    now += 500_000
    assert left("a") == [58], "what could not be charged whole was not charged"
    now += SECOND  # all but a's are over
    assert left("bijklmn") == [59] * 7, "a row of the call itself is not taken"
    assert left("b") == [58]
    with pytest.raises(StoreDown):
        left("o")
    await home.aclose()

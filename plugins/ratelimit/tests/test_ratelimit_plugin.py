"""The plugin kit on both homes, and what a rule means to a call."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from ratelimit_calls import Clock, Upstream, ask, limiter, used

from gwcore.call import Attempt, Principal
from gwcore.errors import BadConfig, Broken, BudgetExceeded, Refused, Unreachable, UpstreamTimeout
from gwcore.plugin import Setup
from gwcore.resources import Lease, Resources
from gwcore.testing.conformance import PluginConformance
from gwcore.testing.fakes import Inner, build, call, upstream
from gwcore.usage import Usage
from gwcore.workers import Workers
from gwcore_ratelimit.config import RateLimitConfig, RateLimitPolicy
from gwcore_ratelimit.counting import counted
from gwcore_ratelimit.gcra import SECOND, Limit
from gwcore_ratelimit.grant import Grant
from gwcore_ratelimit.plugin import RateLimit, refusal

MANY = {"per": "key", "requests": "1M/min", "tokens": "1G/min", "parallel": 1000}
README = Path(__file__).parent.parent / "README.md"


class TestMemory(PluginConformance):
    kind = RateLimit
    config = {"rules": [MANY, {"per": ["upstream", "model"], "parallel": 1000, "tokens": "1G/min"}], "wait": "1s"}
    readme = README

    def held(self, plugin):
        return plugin.health()["held"]


@pytest.fixture(scope="module")
def _redis(request, redis_url):
    TestRedis.url = redis_url


@pytest.mark.usefixtures("_redis")
class TestRedis(PluginConformance):
    kind = RateLimit
    config = {"store": "hot", "rules": [MANY], "timeout": 5}
    url = ""

    def held(self, plugin):
        return plugin.health()["held"]

    def run(self, test):
        async def started():
            config = RateLimitConfig.model_validate(self.config)
            plugin = RateLimit(config, Setup("ratelimit", Lease(Resources()), {"hot": self.url}, {}))
            async with plugin.lifespan():
                await test(plugin)
                assert not plugin.health()["degraded"]

        asyncio.run(started())


# ── what binds whom ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_key_has_its_own_limit_and_a_team_one_together():
    rules = {"per": "key", "requests": "2/min"}, {"per": "team", "requests": "3/min"}
    async with limiter(*rules) as plugin:
        layer = plugin.call_layer(Upstream())
        who = [Principal("a", team="t"), Principal("a", team="t"), Principal("a", team="t"), Principal("b", team="t")]
        who += [Principal("b", team="t"), Principal("c", team="u"), Principal("d")]
        assert [(await ask(layer, principal=p)).status for p in who] == [200, 200, 429, 200, 429, 200, 200]


async def test_without_auth_all_callers_are_one():
    async with limiter({"per": "key", "requests": "2/min"}) as plugin:
        layer = plugin.call_layer(Inner())
        made = [call() for _ in range(3)]
        for one in made[:2]:
            await layer(one)
        with pytest.raises(Exception, match="for key anonymous"):
            await layer(made[2])


async def test_combinations_conditions_and_names_that_try_to_collide():
    rules = (
        {"per": ["user", "model"], "requests": "1/min"},
        {"per": "global", "requests": "1/min", "when": {"models": ["slow-*"]}},
    )
    async with limiter(*rules) as plugin:
        layer = plugin.call_layer(Upstream())
        asked = [("a", 'm","x'), ('a","m', "x"), ("a", "m"), ("a", "m"), ("a", "slow-1"), ("b", "slow-2")]
        got = [(await ask(layer, principal=Principal("k", user=u), model=m)).status for u, m in asked]
        assert got == [200, 200, 200, 429, 200, 429]


async def test_upstream_limits_stand_in_the_attempt_ring_so_a_fallback_has_its_own():
    async with limiter({"per": "upstream", "parallel": 1}, {"per": "global", "requests": "9/min"}) as plugin:
        gate = asyncio.Event()

        class Waits(Inner):
            async def __call__(self, x):
                await gate.wait()
                return await super().__call__(x)

        layer = plugin.attempt_layer(Waits())
        first, second, third = call(), call(), call()
        second.targets = first.targets
        third.targets = (type(first.targets[0])(upstream("other"), "m"),)
        running = asyncio.create_task(layer(Attempt(first, first.targets[0])))
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="1 parallel requests for upstream fake"):
            await layer(Attempt(second, second.targets[0]))
        other = asyncio.create_task(layer(Attempt(third, third.targets[0])))
        await asyncio.sleep(0)
        assert plugin.health()["held"] == 2
        gate.set()
        await asyncio.gather(running, other)
        assert plugin.attempt_layer is not None


async def test_a_key_s_policy_takes_the_place_of_the_rules_per_key():
    policies = {
        "more": RateLimitPolicy(rpm_limit=3, tpm_limit=10_000),
        "models": RateLimitPolicy(model_rpm_limit={"fast*": 1}),
        "none": RateLimitPolicy(rpm_limit=0),
    }
    async with limiter({"per": "key", "requests": "2/min"}, {"per": "global", "requests": "100/min"}) as plugin:
        layer = plugin.call_layer(Upstream())

        async def admitted(name, model="fake/m"):
            who = Principal(name, policies={"ratelimit": {"key": policies[name]}} if name in policies else {})
            return [(await ask(layer, principal=who, model=model)).status for _ in range(5)].count(200)

        assert [await admitted(name) for name in ("plain", "more", "none")] == [2, 3, 0]
        assert await admitted("models", "fast-1") == 1
        assert await admitted("models") == 1  # one of the two had gone to fast-1


@pytest.mark.parametrize(("rule", "policy"), [(2, 1000), (1000, 2), (2, 2)])
@pytest.mark.parametrize("kind", ["requests", "tokens"])
async def test_a_rule_for_a_model_stays_beside_a_policy_s_limit_of_it(kind, rule, policy):
    """Each counts by itself: the tighter of the two is what the key has."""
    unit = 1 if kind == "requests" else 100
    limits = {"m": policy * unit}
    policies = RateLimitPolicy(**{"model_rpm_limit" if kind == "requests" else "model_tpm_limit": limits})
    who = Principal("k", policies={"ratelimit": {"key": policies}})
    async with limiter({"per": "key", kind: f"{rule * unit}/min", "when": {"models": ["m"]}}) as plugin:
        layer = plugin.call_layer(Upstream(used(100)))
        got = [(await ask(layer, principal=who, model="m", max_tokens=1)).status for _ in range(4)]
        assert got == [200, 200, 429, 429]


async def test_a_policy_as_plain_values_binds_as_the_model_does():
    """Of a plugin of somebody's own that says who calls: it was passed over, so its callers had no limit."""
    async with limiter() as plugin:
        layer = plugin.call_layer(Upstream())
        who = Principal("k", policies={"ratelimit": {"key": {"rpm_limit": 2}}})
        assert [(await ask(layer, principal=who)).status for _ in range(3)] == [200, 200, 429]


async def test_policies_of_team_and_member_bind_them_and_a_change_is_seen_at_once():
    async with limiter({"per": "key", "requests": "9/min"}) as plugin:
        layer = plugin.call_layer(Upstream())
        for amount in (2, 8, 1):
            policies = {"team": RateLimitPolicy(rpm_limit=100), "member": RateLimitPolicy(rpm_limit=amount)}
            who = Principal("k", team="t", user="u", policies={"ratelimit": policies})
            assert (await ask(layer, principal=who)).headers[b"x-ratelimit-limit-requests"] == b"%d" % amount
            said = plugin.explain(call_as(who))
            assert (
                "100 requests per 60 s for team t" in said and f"{amount} requests per 60 s for team t, user u" in said
            )
            await asyncio.sleep(0)
            plugin._limiter._now.advance(60)


async def test_a_shadow_rule_refuses_nothing_and_is_counted():
    rules = {"per": "key", "requests": "1/min", "shadow": True}, {"per": "key", "requests": "3/min"}
    async with limiter(*rules) as plugin:
        layer = plugin.call_layer(Upstream())
        got = [await ask(layer) for _ in range(4)]
        assert [g.status for g in got] == [200, 200, 200, 429]
        assert plugin.health()["shadow_refused"] == 3
        assert got[0].headers[b"x-ratelimit-limit-requests"] == b"3"


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def left(got):
    return int(got.headers[b"x-ratelimit-remaining-tokens"])


async def test_the_estimate_is_corrected_by_what_was_used():
    async with limiter({"per": "key", "tokens": "10k/min"}) as plugin:
        first = await ask(plugin.call_layer(Upstream(used(700))), max_tokens=300)
        assert 9600 < left(first) < 9700  # some 40 in, 300 out
        second = await ask(plugin.call_layer(Upstream(used(100))), max_tokens=1)
        assert 9250 < left(second) <= 9300


REFUSED = Refused("no", status=500)


@pytest.mark.parametrize(
    ("error", "given_back"),
    [
        (REFUSED, True),
        (Unreachable("no"), True),
        (UpstreamTimeout("late", phase="first_byte"), False),
        (asyncio.CancelledError(), False),
        (None, False),
    ],
    ids=["refused", "unreachable", "timeout", "cancelled", "no-usage"],
)
async def test_what_was_surely_not_used_is_given_back_and_nothing_else(error, given_back):
    """L4: no refund on a cancelled or unknown outcome."""
    async with limiter({"per": "key", "tokens": "10k/min"}) as plugin:
        try:
            await ask(plugin.call_layer(Upstream(error=error)), max_tokens=500)
        except asyncio.CancelledError:
            pass
        after = left(await ask(plugin.call_layer(Upstream(used(0))), max_tokens=1))
        assert (after > 9900) is given_back


async def kept_of_an_answer_that_does_not_arrive():
    """Tokens charged for an answer of one token, told in its head, whose client is gone before the body."""
    async with limiter({"per": "key", "tokens": "10k/min"}) as plugin:

        async def gone(made):
            attempt = Attempt(made, made.targets[0])
            attempt.status, attempt.usage = 200, used(1)
            attempt.meter = SimpleNamespace(usage=attempt.usage)
            await made.reply.commit(200, [])
            attempt.error = Broken("gone")
            raise attempt.error

        await ask(plugin.call_layer(gone), max_tokens=500)
        return 10_000 - left(await ask(plugin.call_layer(Upstream(used(0))), max_tokens=1))


async def test_an_answer_that_breaks_behind_its_head_is_counted_anew():
    assert await kept_of_an_answer_that_does_not_arrive() > 500


async def test_negative_control_what_the_head_said_is_the_end(monkeypatch):
    count = Grant.count
    monkeypatch.setattr(Grant, "count", lambda self, **_final: count(self, final=True))
    assert await kept_of_an_answer_that_does_not_arrive() < 100


@pytest.mark.parametrize("count", ["input", "output", "total"])
@pytest.mark.parametrize("cached", [True, False])
async def test_which_tokens_count(count, cached):
    """Pains C7: what is counted matches the reported usage."""
    usage = Usage(input=100, cache_read=1000, cache_write_1h=10, output=200, reasoning=50)
    expected = {"input": 110 + 1000 * cached, "output": 250, "total": 360 + 1000 * cached}[count]
    rule = {"per": "key", "tokens": "10k/min", "count": count, "count_cached": cached}
    async with limiter(rule) as plugin:
        await ask(plugin.call_layer(Upstream(usage)), max_tokens=9)
        limit = plugin._calls.limits[0]
        assert counted(limit, usage.total_in, usage.cached, usage.total_out) == expected
        assert plugin._limiter.lead(limit, plugin._calls.bind(call_as(Principal("k"))).charges[0][1]) == expected * 6000


def call_as(principal):
    made = call()
    made.principal = principal
    return made


async def test_a_request_that_could_never_be_admitted_says_so_and_is_not_to_be_retried():
    async with limiter({"per": "key", "tokens": "1000/min"}) as plugin:
        layer = plugin.call_layer(Upstream(used(1)))
        got = await ask(layer, text="word " * 1000)
        assert got.status == 429
        assert got.error.retry_after is None
        assert ("x-should-retry", "false") in got.error.headers
        assert (await ask(layer, max_tokens=10**6)).status == 200  # an answer's length is a guess: it may go into debt


async def test_what_another_limiter_refused_is_given_back():
    """Pains C5 across plugins: a budget inside that refuses costs no request and no token."""
    async with limiter({"per": "key", "requests": "2/min", "tokens": "10k/min"}) as plugin:

        async def broke(_call):
            raise BudgetExceeded("no money")

        for _ in range(5):
            assert (await ask(plugin.call_layer(broke))).error.code == "budget_exceeded"
        got = await ask(plugin.call_layer(Upstream(used(1))), max_tokens=1)
        assert got.headers[b"x-ratelimit-remaining-requests"] == b"1"
        assert left(got) > 9900


async def test_a_refusal_behind_an_attempt_that_was_sent_gives_nothing_back():
    """A budget refuses the router's second choice: the first was asked all the same, and may have used what was reserved."""
    async with limiter({"per": "key", "requests": "2/min", "tokens": "10k/min"}) as plugin:

        async def broke(made):
            Attempt(made, made.targets[0]).error = UpstreamTimeout("late", phase="first_byte")
            second = Attempt(made, made.targets[0])
            second.error = BudgetExceeded("no money")
            raise second.error

        assert (await ask(plugin.call_layer(broke), max_tokens=500)).error.code == "budget_exceeded"
        got = await ask(plugin.call_layer(Upstream(used(1))), max_tokens=1)
        assert got.headers[b"x-ratelimit-remaining-requests"] == b"0"
        assert left(got) < 9_600


# ── what cannot be ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rule",
    [
        {"per": "key"},
        {"per": "planet", "requests": "1/s"},
        {"per": ["key", "global"], "requests": "1/s"},
        {"per": "key", "requests": "1/s", "tokens": "1/s", "burst": 3},
        {"per": "key", "requests": "9/s", "burst": 3, "strict": True},
        {"per": "key", "parallel": 0},
        {"per": "key", "requests": "2000000M/min"},
    ],
)
def test_rules_without_sense_are_refused(rule):
    with pytest.raises(ValidationError):
        RateLimitConfig.model_validate({"rules": [rule]})


def test_two_rules_that_count_the_same_are_refused():
    with pytest.raises(BadConfig, match="two rules count the same requests per key"):
        build(RateLimit, {"rules": [{"per": "key", "requests": "1/s"}, {"per": "key", "requests": "2/s"}]})


def made_with(workers, url="memory:"):
    config = RateLimitConfig.model_validate({"store": "memory", "rules": [{"per": "key", "requests": "1/s"}]})
    return RateLimit(config, Setup("ratelimit", Lease(Resources()), {"memory": url}, {}, workers=workers))


def test_several_workers_with_a_memory_each_are_refused_with_the_mend(tmp_path):
    """Pains C3: a limit that would hold per process does not start."""
    with pytest.raises(BadConfig, match=r"4 workers .*gwcore run --workers"):
        made_with(Workers(4))
    made_with(Workers(4, tmp_path))
    made_with(Workers(4), "redis://localhost")


def test_other_stores_are_refused():
    with pytest.raises(BadConfig, match="in memory or in redis, not in sqlite"):
        made_with(Workers(), "sqlite:///x.db")


async def test_waits_count_for_the_clock():
    """Pains C4: both limits at 90 % for ten minutes and no refusal; a retry after exactly the told time succeeds."""
    clock = Clock()
    async with limiter({"per": "key", "requests": "60/min", "tokens": "60k/min"}, clock=clock) as plugin:
        layer = plugin.call_layer(Upstream(used(1000)))
        for _ in range(540):
            assert (await ask(layer, max_tokens=900)).status == 200
            clock.advance(60 / 54)
        while (refused := await ask(layer, max_tokens=900)).status == 200:
            pass
        clock.advance(refused.error.retry_after - 0.001)
        assert (await ask(layer, max_tokens=900)).status == 429
        clock.advance(0.001)
        assert (await ask(layer, max_tokens=900)).status == 200


@pytest.mark.parametrize(
    ("micros", "said"),
    [
        (1, "0.001"), (500_000, "0.5"), (9_823_456, "9.83"), (10_040_000, "10.1"), (99_999_999, "100"), (4_318_508_000, "4319"),
        (2_592_000_000_000, "2592000"),
    ],
)  # fmt: skip
def test_a_wait_is_told_without_an_exponent_and_never_too_short(micros, said):
    """A limit over days has such waits, and such a period."""
    limit = Limit(id="x", kind="requests", amount=7, period=30 * 86_400 * SECOND, burst=7, scopes=("global",))
    told = refusal((limit, "x:", 1), micros).message
    assert told == f"rate limit reached: 7 requests per 2592000 s for everybody; retry in {said} s"

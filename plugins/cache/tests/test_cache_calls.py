"""Calls through a whole gateway: what is answered from the cache, for whom, at what price, and what never is."""

import asyncio
import json

import pytest
from cache_world import DIALECTS, WIRES, sse, state, world

from gwcore.call import Principal
from gwcore.testing.upstream import Answer

BOTH = pytest.mark.parametrize("stream", [False, True])
EVERY = pytest.mark.parametrize("dialect", DIALECTS)


@EVERY
@BOTH
async def test_a_hit_is_the_same_bytes_and_asks_nobody(dialect, stream):
    async with world(dialect=dialect) as w:
        w.up.default = w.wire.answer(stream)
        first = await w.ask(stream)
        await w.settled()
        second = await w.ask(stream)
        assert (first.status, state(first), state(second)) == (200, "miss", "hit")
        assert second.body == first.body
        assert second.headers["content-type"] == first.headers["content-type"]
        assert w.asked == 1


async def test_a_hit_costs_nothing_and_what_it_spared_is_known():
    async with world() as w:
        w.up.default = w.wire.answer(False)
        first = await w.ask()
        await w.settled()
        second = await w.ask()
        paid, spared = (outcome for _, outcome in w.ended)
        assert paid.cost.nano == 13_000
        assert first.headers["x-gwcore-cost-usd"] == "0.000013000"
        assert (spared.cost.nano, spared.usage) == (0, None)
        assert second.headers["x-gwcore-cost-usd"] == "0.000000000"
        assert second.headers["x-gwcore-attempts"] == "0"
        assert int(second.headers["age"]) >= 0
        use = w.ended[1][0].cache
        assert (use.status, use.saved.nano, use.usage.total) == ("hit", 13_000, 10)
        assert w.ended[0][0].cache.status == "miss"
        assert w.plugin.health()["saved_nano_usd"] == 13_000
        shown = {(s.name, *s.labels.values()): s.value for s in w.plugin.metrics()}
        assert (shown["gwcore_cache_events", "hit"], shown["gwcore_cache_events", "miss"]) == (1, 1)
        assert shown["gwcore_cache_spared_usd",] == 0.000013


async def test_no_key_of_the_cache_leaves():
    async with world() as w:
        w.up.default = w.wire.answer(False)
        for _ in range(2):
            seen = await w.ask()
            await w.settled()
            key = w.ended[-1][0].cache.key
            assert len(key) == 64
            assert not [v for v in seen.headers.values() if key in v or key[:16] in v]


# ── who shares (C1, G1) ──────────────────────────────────────────────────────────────────────────────────────────────

WHO = {
    "a1": Principal("a1", organisation="o1", team="t1", user="u1", end_user="e"),
    "a2": Principal("a2", organisation="o1", team="t1", user="u1", end_user="e"),
    "a3": Principal("a3", organisation="o1", team="t1", user="u2", end_user="f"),
    "a4": Principal("a4", organisation="o1", team="t2", user="u3"),
    "b1": Principal("b1", organisation="o2", team="t1", user="u1", end_user="e"),
    "n1": Principal("n1"),
    "n2": Principal("n2"),
    "o1": Principal("o1"),  # an id that is another's organisation
}
# scope → who shares with a1
SHARES = {
    "organisation": {"a1", "a2", "a3", "a4"},
    "team": {"a1", "a2", "a3", "b1"},
    "user": {"a1", "a2", "b1"},
    "end_user": {"a1", "a2"},
    "key": {"a1"},
    "shared": set(WHO),
}
FORGED = {
    "user": "u1", "metadata": {"user_api_key_org_id": "o1", "organisation": "o1"}, "scope": "organisation:o1",
    "cache": {"namespace": ""},
}  # fmt: skip


async def who_hits(scope):
    async with world(who=WHO, cache={"scope": scope}) as w:
        w.up.default = w.wire.answer(False)
        await w.ask(who="a1", **FORGED)
        await w.settled()
        return {name for name in WHO if state(await w.ask(who=name, **FORGED)) == "hit"}


# each asks once, so that nobody finds what another of the stranger's own scope kept
@pytest.mark.parametrize("scope", SHARES)
async def test_who_shares(scope):
    async with world(who=WHO, cache={"scope": scope}) as w:
        w.up.default = w.wire.answer(False)
        hits = set()
        for name in WHO:
            w.up.requests.clear()
            await w.plugin.home.purge(key_module_everything())
            assert state(await w.ask(who="a1", **FORGED)) == "miss"
            await w.settled()
            seen = await w.ask(who=name, **FORGED)
            await w.settled()
            if state(seen) == "hit":
                hits.add(name)
            assert w.asked == (1 if name in hits else 2)
        assert hits == SHARES[scope]


def key_module_everything():
    from gwcore_cache.shelf import Wanted

    return Wanted()


async def test_control_without_scopes_tenants_share(monkeypatch):
    """The test above sees a key that leaves the scope out."""
    import gwcore_cache.plugin

    monkeypatch.setattr(gwcore_cache.plugin, "scope_of", lambda principal, scope: "all")
    assert await who_hits("organisation") - SHARES["organisation"]


async def test_a_namespace_is_a_part_of_the_scope():
    async with world(who=WHO) as w:
        w.up.default = w.wire.answer(False)
        assert state(await w.ask(who="a1", cache={"namespace": "x"})) == "miss"
        await w.settled()
        assert state(await w.ask(who="a1", cache={"namespace": "y"})) == "miss"
        assert state(await w.ask(who="b1", cache={"namespace": "x"})) == "miss"
        await w.settled()
        assert state(await w.ask(who="a2", cache={"namespace": "x"})) == "hit"


# ── what one request wants (G6) ──────────────────────────────────────────────────────────────────────────────────────


async def test_the_member_never_reaches_the_upstream():
    async with world() as w:
        w.up.default = w.wire.answer(False)
        await w.ask(cache={"ttl": 60, "s-maxage": 60, "use-cache": True})
        await w.post("/v1/moderations", {"model": "m", "input": "x", "cache": {"no-store": True}})
        assert all("cache" not in seen.document for seen in w.up.requests)
        assert w.asked == 2


async def test_a_vendors_own_member_of_that_name_does():
    async with world() as w:
        w.up.default = w.wire.answer(False)
        await w.ask(cache="warm")
        assert w.up.requests[0].document["cache"] == "warm"


@pytest.mark.parametrize(
    ("headers", "member", "states", "asked"),
    [
        ([("cache-control", "no-cache")], None, ["miss", "miss"], 2),
        ([], {"no-cache": True}, ["miss", "miss"], 2),
        ([("cache-control", "no-store")], None, ["bypass", "bypass"], 2),
        ([], {"no-store": True}, ["bypass", "bypass"], 2),
        ([], {"use-cache": False}, ["bypass", "bypass"], 2),
        ([("cache-control", "max-age=0")], None, ["miss", "miss"], 2),
        ([], {"s-maxage": 0}, ["miss", "miss"], 2),
        ([("cache-control", "max-age=60, max-stale")], None, ["miss", "hit"], 1),
        ([], {"ttl": 60}, ["miss", "hit"], 1),
        ([], {"ttl": "1m", "s-maxage": "1h"}, ["miss", "hit"], 1),
        ([("x-gwcore-cache-ttl", "5m")], None, ["miss", "hit"], 1),
        ([("x-gwcore-cache-ttl", "0")], None, ["miss", "miss"], 2),
    ],
)
async def test_what_a_request_wants(headers, member, states, asked):
    async with world() as w:
        w.up.default = w.wire.answer(False)
        seen = []
        for _ in range(2):
            seen.append(state(await w.ask(headers=headers, **({"cache": member} if member else {}))))
            await w.settled()
            await asyncio.sleep(0.002)  # so that an age of 0 s is over
        assert (seen, w.asked) == (states, asked)


async def test_no_cache_renews_what_others_find():
    async with world() as w:
        w.up.script(w.wire.answer(False, "old"), w.wire.answer(False, "new"))
        await w.ask()
        await w.settled()
        await w.ask(headers=[("cache-control", "no-cache")])
        await w.settled()
        third = await w.ask()
        assert state(third) == "hit"
        assert b"new" in third.body


async def test_only_if_cached():
    async with world() as w:
        w.up.default = w.wire.answer(False)
        only = [("cache-control", "only-if-cached")]
        refused = await w.ask(headers=only)
        assert (refused.status, json.loads(refused.body)["error"]["code"], w.asked) == (504, "not_cached", 0)
        await w.ask()
        await w.settled()
        assert state(await w.ask(headers=only)) == "hit"
        assert (await w.post("/v1/moderations", {"model": "m", "input": "x"}, only)).status == 504


@pytest.mark.parametrize(
    "member", [{"ttl": "soon"}, {"no-cache": 1}, {"namespace": 7}, {"nocache": True}, {"ttl": True}]
)
async def test_a_wish_that_cannot_be_read_is_refused(member):
    async with world() as w:
        seen = await w.ask(cache=member)
        assert (seen.status, w.asked) == (400, 0)


async def test_modes_rules_and_policies():
    from gwcore_cache.config import CachePolicy

    off = Principal("off", organisation="o1", policies={"cache": {"key": CachePolicy(mode="off")}})
    rules = [{"models": ["x*"], "mode": "off"}, {"models": ["m"], "mode": "opt-in"}, {"tags": ["fast"], "ttl": 1}]
    async with world(
        who={**WHO, "off": off}, cache={"rules": rules}, models={"m": ["a/m"], "xm": ["a/m"], "n": ["a/m"]}
    ) as w:
        w.up.default = w.wire.answer(False)
        assert state(await w.ask(who="a1", model="xm", cache={"use-cache": True})) == "bypass"
        assert state(await w.ask(who="a1")) == "bypass"
        assert state(await w.ask(who="a1", cache={"use-cache": True})) == "miss"
        await w.settled()
        assert state(await w.ask(who="a1", cache={"use-cache": True})) == "hit"
        assert state(await w.ask(who="off", cache={"use-cache": True})) == "bypass"
        assert state(await w.ask(who="off", model="n")) == "bypass"


# ── what is never kept (C5, G3) ──────────────────────────────────────────────────────────────────────────────────────


async def asked_twice(w, stream, first, **more):
    """How often the upstream is asked when the first answer is this one."""
    w.up.script(first)
    w.up.default = w.wire.answer(stream)
    await w.ask(stream, **more)
    await w.settled()
    second = await w.ask(stream, **more)
    assert second.status == 200
    return w.asked


def partial(answer):
    return Answer(body=answer.body, cut_after=sum(map(len, answer.pieces())) // 2)


def bad_answers(wire, stream):
    good = wire.answer(stream)
    yield "cut by a limit", wire.answer(stream, cut=True)
    yield "an error status", Answer(500, body=b'{"error":{"message":"no"}}')
    yield "a refusal", Answer(429, body=b'{"error":{"message":"no"}}')
    yield "the connection broke", partial(good)
    yield "over size", wire.answer(stream, "x" * 5000)
    yield "not the dialect", Answer(body=b'{"hello": 1}') if not stream else Answer(body=sse({"hello": 1}))
    yield "a 201", Answer(201, body=good.body)
    if stream:
        yield "no end", Answer(body=list(good.body)[:2])


BAD = [
    (dialect, stream, name)
    for dialect in DIALECTS
    for stream in (False, True)
    for name, _ in bad_answers(WIRES[dialect], stream)
    if not (dialect == "gemini.generate" and name == "no end")
]


@pytest.mark.parametrize(("dialect", "stream", "name"), BAD)
async def test_never_kept(dialect, stream, name):
    async with world(dialect=dialect, cache={"max_size": "4kB", "stale_if_error": 0}) as w:
        answer = dict(bad_answers(w.wire, stream))[name]
        asked = await asked_twice(w, stream, answer)
        assert w.plugin.counts["hit"] == 0
        assert asked == 2


async def test_control_a_judge_that_takes_all_is_seen(monkeypatch):
    import gwcore_cache.record

    monkeypatch.setattr(gwcore_cache.record, "is_good", lambda *_: True)
    async with world() as w:
        assert await asked_twice(w, False, w.wire.answer(False, cut=True)) == 1


@pytest.mark.parametrize(
    ("finish", "stream"),
    [
        *((finish, stream) for finish in ("length", "content_filter", "error", "surprise") for stream in (False, True)),
        (None, False),  # of a stream, the end mark says as much
    ],
)
async def test_only_answers_that_ended_by_themselves(finish, stream):
    async with world() as w:
        whole = w.wire.whole("x", "stop")
        whole["choices"][0]["finish_reason"] = finish
        frames = w.wire.frames("x", "stop")
        frames[2]["choices"][0]["finish_reason"] = finish
        bad = Answer(body=sse(*frames)) if stream else Answer(body=json.dumps(whole).encode())
        assert await asked_twice(w, stream, bad) == 2


async def test_one_filtered_choice_of_several_is_enough():
    async with world(cache={"several": True}) as w:
        whole = w.wire.whole("x", "stop")
        whole["choices"].append({**whole["choices"][0], "index": 1, "finish_reason": "content_filter"})
        assert await asked_twice(w, False, Answer(body=json.dumps(whole).encode()), n=2) == 2


async def test_no_usage_is_not_kept():
    async with world() as w:
        whole = w.wire.whole("x", "stop")
        del whole["usage"]
        assert await asked_twice(w, False, Answer(body=json.dumps(whole).encode())) == 2


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({"n": 2}, 2),
        ({"n": 2, "temperature": 0}, 1),
        ({"n": 1}, 1),
        ({"background": True}, 2),
        ({"conversation": "c"}, 2),
        ({"thread": {"type": "create"}}, 2),
    ],
)
async def test_what_wants_variety_or_keeps_state_is_passed_by(more, asked):
    async with world() as w:
        assert await asked_twice(w, False, w.wire.answer(False), **more) == asked


async def test_a_client_that_leaves_leaves_nothing():
    async with world() as w:
        w.up.script(w.wire.answer(True, gap=0.2))
        task = asyncio.create_task(w.ask(True))
        await w.up.received()
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await w.up.requests[0].gone()
        w.up.default = w.wire.answer(True)
        assert state(await w.ask(True)) == "miss"
        assert w.asked == 2


ROUTER = [{"fallback": {"retry": {"attempts": 2, "base": "1ms"}}}]


@pytest.mark.parametrize(("own", "kept"), [(["a/m", "b/other"], False), (["a/m"], False), (["a/m", "b/m"], True)])
async def test_a_fallbacks_answer_is_not_the_primarys(own, kept):
    """Another model's answer is never kept; that of the same model at another upstream of its own list is."""
    router = [{"fallback": {"models": {"m": {"fallbacks": ["spare"]}}, "retry": {"attempts": 2, "base": "1ms"}}}]
    async with world("ab", models={"m": own, "spare": ["b/spare"]}, more=router) as w:
        w.ups["a"].default = Answer(503, body=b"{}")
        w.ups["b"].default = w.wire.answer(False)
        first = await w.ask()
        assert (first.status, first.headers["x-gwcore-upstream"]) == (200, "b")
        await w.settled()
        assert state(await w.ask()) == ("hit" if kept else "miss")


async def test_control_a_fallbacks_answer_would_be_found(monkeypatch):
    import gwcore_cache.record

    monkeypatch.setattr(gwcore_cache.record, "is_asked_for", lambda *_, **__: True)
    async with world("ab", models={"m": ["a/m", "b/other"]}, more=ROUTER) as w:
        w.ups["a"].default = Answer(503, body=b"{}")
        w.ups["b"].default = w.wire.answer(False)
        await w.ask()
        await w.settled()
        assert state(await w.ask()) == "hit"


async def test_a_continued_stream_is_not_kept():
    router = [{"fallback": {"continuation": True, "retry": {"attempts": 2, "base": "1ms"}}}]
    async with world("ab", models={"m": ["a/m", "b/m"]}, more=router) as w:
        frames = w.wire.answer(True, "one ").body
        w.ups["a"].default = Answer(body=frames, cut_after=len(frames[0]) + len(frames[1]))
        w.ups["b"].default = w.wire.answer(True, "two")
        first = await w.ask(True)
        assert b"one " in first.body
        assert b"two" in first.body
        await w.settled()
        assert w.plugin.counts["kept"] == 0


async def test_money_and_limits(tmp_path):
    """A hit holds no money and has no row in the ledger, but is one of the requests that are limited."""
    stores = {"book": f"sqlite:///{tmp_path}/book.db"}
    limit = {"ratelimit": {"rules": [{"per": "key", "requests": "2/min", "burst": 2}]}}
    budget = {"budget": {"store": "book", "patience": "5s"}}
    async with world(who=WHO, stores=stores, more=[budget]) as w:
        w.up.default = w.wire.answer(False)
        assert [state(await w.ask(who="a1")), await w.settled(), state(await w.ask(who="a1"))] == ["miss", None, "hit"]
        ledger = next(p.plugin for p in w.gateway.stack.placed if p.name == "budget").ledger
        ledger.escrow.pump()
        assert await ledger.group.flushed()
        assert await ledger.home.rows("SELECT count(*) FROM budget_hold") == [(1,)]
    from cache_world import stack

    text = json.loads(stack({"a": "http://127.0.0.1:1"}, WIRES["openai.chat"]))
    text["stack"].insert(1, limit)
    async with world(who=WHO) as w:
        text["upstreams"]["a"]["base_url"] = f"{w.up.url}/v1"
        w.gateway.source = json.dumps(text, indent=1)
        assert await w.gateway.reload()
        w.up.default = w.wire.answer(False)
        assert (await w.ask(who="a1")).status == 200
        await w.settled()
        assert state(await w.ask(who="a1")) == "hit"
        assert (await w.ask(who="a1")).status == 429

"""When two calls are the same call (C2, G2, G7): any change of anything makes another key, but what is named here."""

import asyncio
import json
import random
import string
from dataclasses import replace

import pytest
from cache_world import DIALECTS, WIRES
from hypothesis import given, settings
from hypothesis import strategies as st

from gwcore.call import Call, Principal
from gwcore.catalog import Catalog
from gwcore.provider import Target
from gwcore.reply import Reply
from gwcore.testing.fakes import upstream
from gwcore.wire.transport import Origin
from gwcore_cache import key as module
from gwcore_cache.config import IGNORED, IGNORED_HEADERS, CacheConfig
from gwcore_cache.key import Keyer, scope_of

ALL = {dialect.name: dialect for dialect in Catalog().dialects()}
UPSTREAM = upstream("a")


async def nowhere(_message):
    pass


def made(
    document,
    dialect="openai.chat",
    *,
    stream=False,
    headers=(),
    query=b"",
    raw=None,
    model="m",
    targets=("m",),
    tags=(),
):
    spoken = ALL[dialect]
    route = next(
        r
        for r in spoken.routes
        if r.operation == "chat" and (r.stream == "always") == (stream and dialect == "gemini.generate")
    )
    call = Call(
        id="x", dialect=spoken, route=route, reply=Reply(nowhere), headers=list(headers), query=query,
        raw=raw if raw is not None else json.dumps(document).encode(), document=document, model=model, stream=stream,
    )  # fmt: skip
    call.targets = tuple(Target(UPSTREAM, name) for name in targets)
    call.tags = frozenset(tags)
    return call


def key(document, dialect="openai.chat", *, keyer=None, scope="s", namespace="", **more):
    return (keyer or Keyer(b"index", IGNORED, headers=IGNORED_HEADERS)).key(
        made(document, dialect, **more), scope, namespace
    )


FULL = {
    "openai.chat": {
        "model": "m", "temperature": 0.5, "top_p": 1, "seed": 7, "n": 1, "max_tokens": 64, "stop": ["a"], "logit_bias": {"50256": -100},
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}],
        "tool_choice": "auto", "parallel_tool_calls": True, "reasoning_effort": "low", "service_tier": "flex",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "object", "properties": {"x": {"type": "string"}}}}},
    },
    "openai.responses": {
        "model": "m", "instructions": "be brief", "max_output_tokens": 64, "reasoning": {"effort": "low"}, "temperature": 0.5,
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "previous_response_id": "r0",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}], "include": ["reasoning.encrypted_content"],
    },
    "anthropic.messages": {
        "model": "m", "max_tokens": 64, "system": [{"type": "text", "text": "be brief"}], "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}], "tool_choice": {"type": "auto"}, "top_k": 4,
    },
    "gemini.generate": {
        "systemInstruction": {"parts": [{"text": "be brief"}]}, "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"temperature": 0.5, "maxOutputTokens": 64, "responseMimeType": "application/json", "thinkingConfig": {"thinkingBudget": 5}},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    },
}  # fmt: skip


def places(value, path=()):
    """Every container of a document."""
    if isinstance(value, dict | list):
        yield path
        for at, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, at))


def leaves(value, path=()):
    if isinstance(value, dict | list) and value:
        for at, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, at))
    else:
        yield path


def inside(document, path):
    for step in path:
        document = document[step]
    return document


def mutated(document, rng):
    """A copy with one thing changed, somewhere; what is ignored is left alone."""
    copy = json.loads(json.dumps(document))
    word = "".join(rng.choices(string.ascii_lowercase, k=6))
    how = rng.choice(["value", "value", "drop", "new", "new", "type"])
    if how == "new":
        container = inside(copy, rng.choice(list(places(copy))))
        value = rng.choice([word, 1, 0.25, True, None, [], {}, {word: 1}])
        container[f"x_{word}"] = value if isinstance(container, dict) else None
        return copy
    path = rng.choice(list(leaves(copy)))
    container = inside(copy, path[:-1])
    old = container[path[-1]]
    if how == "drop":
        del container[path[-1]]
    elif how == "type":
        container[path[-1]] = str(old) if not isinstance(old, str) else [old]
    else:
        container[path[-1]] = (
            not old if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else f"{old or ''}{word}"
        )
    return copy


def insert(container, name, value):
    if isinstance(container, dict):
        container[name] = value
    else:
        container.append(value)


def change(document, rng):
    copy = json.loads(json.dumps(document))
    paths = list(places(copy))
    if rng.random() < 0.4:
        word = "".join(rng.choices(string.ascii_lowercase, k=6))
        insert(inside(copy, rng.choice(paths)), f"x_{word}", rng.choice([word, 1, 0.25, True, None, [], {}, {word: 1}]))
        return copy
    while True:
        try:
            return mutated(document, rng)
        except TypeError:
            continue


def collisions(count, seed=0, keyer=None):
    rng = random.Random(seed)
    found = []
    for n in range(count):
        dialect = DIALECTS[n % len(DIALECTS)]
        before = FULL[dialect]
        after = change(before, rng)
        if json.dumps(after) != json.dumps(before) and key(after, dialect, keyer=keyer) == key(
            before, dialect, keyer=keyer
        ):
            found.append((dialect, after))
    return found


def test_ten_thousand_changes_make_ten_thousand_keys():
    assert not collisions(10_000)


def test_control_a_key_of_known_members_collides(monkeypatch):
    """A key that is made of what a codec understands, and of nothing else, is caught."""
    monkeypatch.setattr(module, "_leaves", lambda *_: ())
    assert collisions(2_000)


def test_control_a_key_without_the_tools_collides():
    assert collisions(2_000, keyer=Keyer(b"index", (*IGNORED, "tools")))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def same(a, b):
    """Equal as JSON: 1 is 1.0, but true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return (type(a) in (int, float) and type(b) in (int, float) and a == b) or (isinstance(a, str) and a == b)


ELSEWHERE = {"model", "stream", "stream_options", *IGNORED}
"""What of a document is in its key in another way or not at all."""


@settings(max_examples=400, deadline=None)
@given(JSON, JSON, st.text(min_size=1, max_size=8).filter(lambda name: name not in ELSEWHERE))
def test_keys_are_equal_exactly_when_documents_are(one, other, name):
    base = WIRES["openai.chat"].body
    assert (key({**base, name: one}) == key({**base, name: other})) == same(one, other)


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(DIALECTS))
def test_order_spelling_and_stream_change_nothing(rng, dialect):
    def shuffled(value):
        if isinstance(value, dict):
            items = list(value.items())
            rng.shuffle(items)
            return {k: shuffled(v) for k, v in items}
        if isinstance(value, list):
            return [shuffled(v) for v in value]
        return float(value) if type(value) is int and rng.random() < 0.5 else value

    document = FULL[dialect]
    other = shuffled(document)
    raw = json.dumps(other, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.5).encode()
    assert key(other, dialect, raw=raw) == key(document, dialect)
    assert key({**other, "stream": True}, dialect, stream=True) == key(document, dialect)


def test_text_is_not_normalised():
    base = WIRES["openai.chat"].body
    one, other = "caf\u00e9", "cafe\u0301"
    assert key({**base, "x": one}) != key({**base, "x": other})


def test_what_names_a_caller_is_left_out_at_the_top_only():
    base = WIRES["openai.chat"].body
    for name in IGNORED:
        assert key({**base, name: "x"}) == key(base)
        assert key({**base, "deep": {name: "x"}}) != key({**base, "deep": {}})
    assert key({**base, "user": "x"}, keyer=Keyer(b"index")) != key(base, keyer=Keyer(b"index"))


def test_what_parsers_read_otherwise_is_another_call():
    """A number with more digits than a double, a member that stands twice: the bytes decide."""
    base = dict(WIRES["openai.chat"].body)

    def of(text):
        raw = json.dumps(base)[:-1].encode() + b"," + text + b"}"
        return key(
            {**base, **json.loads(b"{" + text + b"}", parse_int=lambda s: int(s) if abs(int(s)) < 2**64 else float(s))},
            raw=raw,
        )

    assert of(b'"seed":36893488147419103233') != of(b'"seed":36893488147419103234')
    assert of(b'"temperature":0,"temperature":1') != of(b'"temperature":1')
    assert of(b'"x":{"a":1,"a":2}') != of(b'"x":{"a":2}')
    assert of(b'"x":"\\"a\\":1, \\\\","y":": :"') == of(b'"x" : "\\"a\\":1, \\\\" , "y":": :"')


def test_control_without_that_check_they_are_one(monkeypatch):
    monkeypatch.setattr(module, "is_doubtful", lambda *_: False)
    with pytest.raises(AssertionError):
        test_what_parsers_read_otherwise_is_another_call()


def test_model_targets_tags_scope_and_namespace():
    base = WIRES["openai.chat"].body
    keys = [
        key(base), key(base, model="other"), key(base, targets=("m2",)), key(base, targets=("m", "m2")), key(base, tags=("eu",)),
        key(base, scope="s2"), key(base, namespace="x"), key(base, scope="s", namespace="s"), key(base, keyer=Keyer(b"other")),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    # one that has met these bytes before tells them apart, too
    one = Keyer(b"index", IGNORED, headers=IGNORED_HEADERS)
    assert [key(base, keyer=one, **more) for more in ({}, {"model": "other"}, {"targets": ("m2",)})] == keys[:3]
    assert [key(base, keyer=one, **more) for more in ({"scope": "s2"}, {"namespace": "x"})] == keys[5:7]
    assert key(base, tags=("eu",), keyer=Keyer(b"i", ("tags",))) == key(base, keyer=Keyer(b"i", ("tags",)))


def test_headers_and_parameters_that_reach_the_upstream():
    base = WIRES["anthropic.messages"].body
    plain = key(base, "anthropic.messages")
    assert key(base, "anthropic.messages", headers=[(b"anthropic-beta", b"x")]) != plain
    assert key(base, "anthropic.messages", query=b"beta=true") != plain
    for header in ((b"x-stainless-retry-count", b"1"), (b"user-agent", b"x"), (b"anthropic-version", b"2023-06-01")):
        assert key(base, "anthropic.messages", headers=[header]) == plain
    assert key(base, "anthropic.messages", headers=[(b"anthropic-version", b"2026-10-21")]) != plain
    gemini = FULL["gemini.generate"]
    assert key(gemini, "gemini.generate", query=b"key=secret&alt=sse") == key(gemini, "gemini.generate")


def test_volatile_text_is_left_out():
    """A client that writes another token into every prompt (G7) finds its answers all the same."""

    def ask(token):
        return {**WIRES["anthropic.messages"].body, "system": f"x-attribution: cch={token}; You are helpful."}

    keyer = Keyer(b"index", IGNORED, (r"cch=[0-9a-f]+",))
    assert key(ask("12ab"), "anthropic.messages", keyer=keyer) == key(ask("99ff"), "anthropic.messages", keyer=keyer)
    assert key(ask("12ab"), "anthropic.messages") != key(ask("99ff"), "anthropic.messages")
    assert key(ask("zz"), "anthropic.messages", keyer=keyer) != key(ask("99ff"), "anthropic.messages", keyer=keyer)


def test_one_conversation_in_three_dialects_is_one_call():
    asked = {
        "openai.chat": {"max_tokens": 64, "temperature": 0, "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]},
        "anthropic.messages": {"max_tokens": 64, "temperature": 0.0, "system": "be", "messages": [{"role": "user", "content": "hi"}]},
        "gemini.generate": {
            "systemInstruction": {"parts": [{"text": "be"}]}, "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
            "generationConfig": {"temperature": 0, "maxOutputTokens": 64},
        },
    }  # fmt: skip
    assert len({key(document, dialect) for dialect, document in asked.items()}) == 1
    asked["openai.chat"]["seed"] = 7
    assert len({key(document, dialect) for dialect, document in asked.items()}) == 2


def test_scopes_are_told_apart():
    """No two callers whose ids differ where the scope looks have one text, and nobody falls to a wider scope."""
    ids = [None, "1", "key:1", "organisation:1"]
    seen: dict[tuple[str, str], tuple] = {}
    for scope in ("organisation", "team", "user", "key"):
        for organisation in ids:
            for team in ids:
                for user in ids:
                    who = Principal("k1", organisation=organisation, team=team, user=user)
                    fields = {
                        "organisation": (organisation, team, user, "k1"),
                        "team": (team, user, "k1"),
                        "user": (user, "k1"),
                        "key": ("k1",),
                    }[scope]
                    first = next((n, value) for n, value in enumerate(fields) if value is not None)
                    assert seen.setdefault((scope, scope_of(who, scope)), first) == first
    assert scope_of(None, "organisation") == "open"
    assert scope_of(None, "shared") == "shared"


def test_the_same_bytes_are_read_once(monkeypatch):
    keyer, read = Keyer(b"index"), []
    monkeypatch.setattr(keyer, "_said", lambda call, raw: read.append(raw) or raw)
    for _ in range(3):
        key(FULL["openai.chat"], keyer=keyer)
    assert len(read) == 1


def test_an_edited_document_is_keyed_by_what_it_says_now():
    async def keys():
        keyer = Keyer(b"index")
        call = made(dict(WIRES["openai.chat"].body))
        before = keyer.key(call, "s")
        call.edit()["temperature"] = 1
        return before, keyer.key(call, "s")

    before, after = asyncio.run(keys())
    assert before != after


@pytest.mark.parametrize(
    "other",
    [
        {"origin": Origin("http", "127.0.0.1", 2)},
        {"base_path": "/v2"},
        {"options": CacheConfig(ttl=7)},  # any model does
        {"dialect": "openai.chat"},
    ],
)
def test_an_upstream_that_leads_elsewhere_is_another_target(other):
    """By a reload, or in another stack that shares the store."""

    def at(upstream):
        call = made({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        call.targets = (Target(upstream, "m"),)
        return Keyer(b"index").key(call, "s")

    assert at(upstream("a")) == at(upstream("a"))
    assert at(replace(upstream("a"), **other)) != at(upstream("a"))

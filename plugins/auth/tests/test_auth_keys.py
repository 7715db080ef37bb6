"""The shape of keys, digests, allow-lists."""

import re
import string
import time
from collections import Counter
from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwcore.errors import PluginFault
from gwcore_auth.cache import GrantCache
from gwcore_auth.config import AuthConfig, DeclaredKey
from gwcore_auth.grants import Grant, KeyExpired, ModelRule, RouteRule, model_rule, networks_of, policies_of, within
from gwcore_auth.keys import Pepper, hint, mint, presented, proof_of
from gwcore_auth.resolve import ADMIN, Resolver

PEPPER = Pepper("a" * 40)
TEXT = st.text(max_size=80)


def test_a_key_has_256_random_bits_and_an_id():
    keys = [mint() for _ in range(2000)]
    assert len(set(keys)) == 2000
    for key in keys:
        shown = presented(key)
        assert shown.id == key[3:15] and len(key) == 3 + 12 + 1 + 43 + 1 + 6
        assert key not in repr(shown) and shown.proof not in repr(shown)
    drawn = Counter("".join(key[16:59] for key in keys))  # 86,000 characters of 62 kinds: about 1,387 of each
    assert set(drawn) == set(string.ascii_letters + string.digits)
    assert min(drawn.values()) > 1100 and max(drawn.values()) < 1700


def test_a_mistyped_key_is_known_without_the_store():
    key = mint()
    for at in range(3, len(key)):
        other = "b" if key[at] == "a" else "a"
        wrong = presented(key[:at] + other + key[at + 1 :])
        assert wrong.id != presented(key).id
    assert presented(key[:-1]).id != presented(key).id


def test_a_credential_beyond_all_lengths_is_none():
    assert presented("sk-" + "a" * 10_000).id is None


@given(TEXT, TEXT)
def test_no_two_credentials_share_a_proof_or_a_digest(one, other):
    """CVE-2026-35030: the cache's key was a prefix."""
    same = one == other
    assert (proof_of(one) == proof_of(other)) is same
    assert PEPPER.matches(proof_of(one), PEPPER.digest(proof_of(other))) is same
    assert (proof_of(one + other) == proof_of(one)) is (other == "")


@given(TEXT)
def test_another_pepper_makes_another_digest(text):
    other = Pepper("b" * 40)
    assert not other.matches(proof_of(text), PEPPER.digest(proof_of(text)))
    assert other.fingerprint != PEPPER.fingerprint


def test_no_digest_matches_nothing():
    assert not PEPPER.matches(proof_of("x"), None)
    assert not PEPPER.matches(proof_of("x"), "")


def test_a_hint_shows_four_characters():
    assert hint("sk-" + "x" * 50 + "abcd") == "sk-...abcd"


@pytest.mark.parametrize(
    ("names", "allowed", "denied"),
    [
        (["gpt-5"], ["gpt-5"], ["gpt-5-mini", "GPT-5", "gpt-5 ", " gpt-5", "gpt-5/", "openai/gpt-5", "", "gpt-5\n"]),
        (["openai/*"], ["openai/gpt-5", "openai/a/b"], ["openai", "azure/openai/x", "OPENAI/gpt-5", "openai\n/x"]),
        (["*-mini"], ["gpt-5-mini"], ["gpt-5-mini-2", "gpt-5-mini\n"]),
        (["a?c", "x[ab]"], ["a?c", "x[ab]"], ["abc", "xa", "xb"]),
        (["a*", "b"], ["a", "ab", "b"], ["bb", "cab"]),
        (["no-default-models"], [], ["a", "no-default-models", "*"]),
    ],
)
def test_model_lists(names, allowed, denied):
    rule = model_rule("key", names)
    assert [name for name in allowed if not rule.allows(name)] == []
    assert [name for name in denied if rule.allows(name)] == []


@pytest.mark.parametrize("names", [[], ["*"], ["all-proxy-models"], ["a", "*"], ["all-team-models"]])
def test_lists_that_allow_everything(names):
    assert model_rule("key", names) is None


def test_names_typed_by_clients_fill_no_memory():
    rule = ModelRule("key", ["a*"])
    for n in range(5000):
        rule.allows(f"b{n}")
    assert len(rule._seen) <= 256
    assert rule.allows("a1") and not rule.allows("b1")


def test_routes():
    rule = RouteRule(["/v1/chat/completions", "embeddings", "/v1/files/*"])
    assert rule.allows("/v1/chat/completions", "chat") and rule.allows("/embeddings", "embeddings")
    assert rule.allows("/v1/files/abc/content")
    assert not rule.allows("/v1/chat/completions/../responses") and not rule.allows("/v1/filesystem")


@pytest.mark.parametrize(
    ("client", "inside"),
    [
        ("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("2001:db8::1", True), ("11.0.0.1", False), ("10.1.2.3.4", False),
        ("10.1.2.3:4711", True), ("[2001:db8::1]:4711", True), ("[2001:db8::1]", True), ("11.0.0.1:10", False), ("10.1.2.3:1:2", False),
        ("", False), (None, False), ("localhost", False), ("010.1.2.3", False), ("2001:db9::1", False),
    ],
)  # fmt: skip
def test_networks(client, inside):
    assert within(client, networks_of(["10.0.0.0/8", "2001:db8::/32"])) is inside


def test_what_changed_during_a_load_is_not_kept():
    cache = GrantCache(10)
    epoch = cache.epoch
    cache.drop(("key", "k"))
    cache.put(b"d", Grant(ADMIN, depends=frozenset({("key", "k")})), epoch)
    assert not cache.grants
    cache.put(b"d", Grant(ADMIN, depends=frozenset({("key", "k")})), cache.epoch)
    assert cache.grants


@pytest.mark.parametrize("change", [lambda cache: cache.drop(("key", "k")), GrantCache.clear], ids=["one", "all"])
def test_what_changed_during_a_load_is_not_kept_for_an_end_user_either(change):
    cache = GrantCache(10)
    epoch = cache.epoch
    change(cache)
    cache.put(b"d", Grant(ADMIN), epoch)
    cache.put_for(b"d", "e", Grant(ADMIN), epoch)
    assert not cache.grants and not cache.for_end_user
    cache.put_for(b"d", "e", Grant(ADMIN), cache.epoch)
    assert cache.for_end_user


def test_a_stored_policy_that_is_none_any_more_is_no_free_pass():
    """The model of a plugin changed: what it limited would be unlimited."""
    with pytest.raises(PluginFault):
        policies_of([("key", {"policies": {"p": {"expires": "never"}}})], {"p": DeclaredKey})


def test_a_grant_ends_with_the_second_it_is_until():
    grant = Grant(ADMIN, until=10.0)
    grant.alive(9.999)
    with pytest.raises(KeyExpired):
        grant.alive(10.0)


def test_the_cache_is_bounded_and_drops_by_subject():
    cache = GrantCache(100)
    for n in range(300):
        cache.put(b"%d" % n, Grant(ADMIN, depends=frozenset({("key", f"k{n}"), ("team", f"t{n % 2}")})), cache.epoch)
        cache.put(b"u%d" % n, None, cache.epoch)
        cache.put_for(b"0", f"e{n}", Grant(ADMIN), cache.epoch)  # clients name end users
    assert len(cache.grants) == len(cache.unknown) == len(cache.for_end_user) == 100
    cache.drop(("team", "t0"))
    assert len(cache.grants) == 50 and not cache.unknown
    cache.drop(("key", "k299"))
    assert len(cache.grants) == 49
    cache.clear()
    assert not cache._by_subject


def naive(words):
    """The control: how one writes it in a minute."""
    return re.compile("|".join(re.escape(word).replace(r"\*", ".*") for word in words))


@pytest.mark.parametrize("rule", [lambda words: RouteRule(words).allows, lambda words: ModelRule("key", words).allows])
def test_a_pattern_of_a_user_holds_up_nobody(rule):
    """A user writes the routes of its key, and the address that they are held against: a worker would stand still for minutes."""
    address = "/v1/models/" + "a" * 30_000
    began = time.perf_counter()
    assert not rule(["/v1/*" + "a*" * 50 + "b"])(address)
    assert rule(["/v1/*" + "a*" * 50])(address)
    took = time.perf_counter() - began
    began = time.perf_counter()
    assert not naive(["/v1/*a*a*a*b"]).fullmatch(address[:250])  # a hundredth of it
    assert took < time.perf_counter() - began


@pytest.mark.parametrize("secret", [1_000, 3_000, None])
async def test_a_secret_in_its_grace_outlives_no_key(secret, monkeypatch):
    """Of the key's end and the old secret's the earlier counts."""
    row = dict.fromkeys(("alias", "team_id", "user_id", "organisation_id"))
    row |= {
        "id": "k",
        "expires": 2_000,
        "kind": "default",
        "aliases": {},
        "metadata": {},
        "blocked": False,
        "policies": {},
    }
    row |= {name: [] for name in ("routes", "networks", "models", "tags")}
    resolver = Resolver(
        AuthConfig(admin_key="sk-Qw3rTy7uIoPaZxCvBnM9kLjHgFdSa2XyZ"),
        AsyncMock(get=AsyncMock(return_value=None), declared={}),
        None,
        {},
    )
    monkeypatch.setattr(resolver, "key_of", AsyncMock(return_value=(row, secret)))
    assert (await resolver.grant(presented("sk-x"))).until == min(2_000, secret or 9_000) / 1_000

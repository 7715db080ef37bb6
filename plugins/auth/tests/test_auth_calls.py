"""Calls: who gets in, who does not, and what the upstream saw (S1, I1, I10)."""

import asyncio
import json
import time

import httpx2
import pytest
from auth_world import ADMIN, Sees, stack_text
from sqlalchemy import event

from gwcore.gateway import Gateway
from gwcore.sql import engine_of
from gwcore.testing.server import running
from gwcore_auth.keys import mint, presented


async def test_a_key_works_until_it_is_deleted(api, upstream):
    key = await api.key(models=["m"])
    answer = await api.chat(key)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "hi"
    await api.post("/key/delete", {"keys": [key]})
    assert (await api.chat(key)).status_code == 401
    assert len(upstream.requests) == 1
    assert not [v for _, v in upstream.requests[0].headers if key in v]


async def test_who_is_refused_is_known_to_what_watches(api):
    Sees.ended.clear()
    assert (await api.chat(await api.key(key_alias="tight", models=["n"]), "m")).status_code == 403
    assert (await api.chat(mint())).status_code == 401
    async with asyncio.timeout(10):
        while len(Sees.ended) < 2:  # told when the last byte has left, which the client may have read by then
            await asyncio.sleep(0.01)
    assert [caller and caller.alias for caller in Sees.ended] == ["tight", None]


async def test_the_admin_key_calls_too(api, admin_key):
    assert (await api.chat(admin_key, "up/anything")).status_code == 200


# ── S1 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_s1_every_wrong_credential_gets_the_same_401(api, upstream):
    key, other = await api.key(), await api.key()
    wrong = {
        "unknown id": mint(),
        "wrong secret": _with_check(key[:16] + other[16:59]),
        "another's secret under the id": _with_check(key[:15] + other[15:59]),
        "truncated": key[:-1],
        "without the prefix": key[3:],
        "longer": key + "a",
        "10 kB": "sk-" + "x" * 10_240,
        "unicode": "sk-кл\u00fc\u20acч\U0001f511",
        "an id of the store": presented(key).id,
        "a proof": presented(key).proof,
        "case": key.swapcase(),
        "quotes": "' OR 1=1 --",
        "percent": "%",
        "a JWT": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.",
        "basic": "Basic YWRtaW46YWRtaW4=",
        "an example": "sk-1234",
    }
    said = {}
    for what, text in wrong.items():
        headers = {"authorization": f"Bearer {text}".encode()}
        answer = await api.chat(None, headers=headers)
        body = answer.json()
        body.pop("request_id", None)
        said[what] = (answer.status_code, str(body))
    assert set(said.values()) == {next(iter(said.values()))}, said
    assert next(iter(said.values()))[0] == 401
    assert upstream.requests == []
    assert (await api.chat(key)).status_code == 200  # the control: the right one is let in


def _with_check(text):
    from gwcore_auth.keys import _check

    return f"{text}_{_check(text)}"


async def test_s1_no_credential(api, upstream):
    answer = await api.chat(None)
    assert answer.status_code == 401 and "No api key" in answer.text
    assert (await api.chat(None, headers={"x-api-key": ""})).status_code == 401
    assert (await api.chat(None, headers={"authorization": ""})).status_code == 401
    assert upstream.requests == []


@pytest.mark.parametrize("second", ["x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key"])
async def test_s1_carriers_and_conflicts(api, upstream, second):
    """GHSA-57q6: every carrier goes through the same check, and two that differ are refused."""
    key, other = await api.key(models=["m"]), await api.key()
    assert (await api.chat(None, headers={second: key})).status_code == 200
    assert (await api.chat(None, "n", headers={second: key})).status_code == 403
    assert (await api.chat(key, headers={second: key})).status_code == 200
    seen = len(upstream.requests)
    for conflict in ({second: other}, {second: "sk-nonsense"}):
        assert (await api.chat(key, headers=conflict)).status_code == 400
    assert len(upstream.requests) == seen


async def test_s1_two_authorization_headers(api, upstream):
    key, other = await api.key(), await api.key()
    url = f"{api.url}/v1/chat/completions"
    body = {"model": "m", "messages": []}
    for pair, status in (((key, key), 200), ((key, other), 400), (("sk-x", key), 400)):
        headers = [("authorization", f"Bearer {text}") for text in pair]
        assert (await api.http.post(url, json=body, headers=headers)).status_code == status
    assert len(upstream.requests) == 1


async def test_i1_sql_texts_are_constant_whatever_the_credential_holds(api):
    """CVE-2026-42208: quotes, NUL, unicode and 64 kB reach no statement's text."""
    await api.key()
    texts = set()

    def note(_connection, _cursor, statement, *_):
        texts.add(statement)

    engine = engine_of(api.auth.book.store).sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await api.chat(mint())
    await asyncio.sleep(1.2)  # the feed's statements, more than once
    before = set(texts)
    assert before
    fuzz = [
        "'",
        '"',
        "' OR pg_sleep(9)--",
        "\\",
        "%s",
        ":id",
        "sk-'",
        "sk-" + "é" * 30,
        "a" * 3000,
        ";DROP TABLE auth_key",
    ]
    for text in fuzz:
        for header in ("authorization", "x-api-key", "x-goog-api-key"):
            answer = await api.chat(None, headers={header: text.encode()})
            assert answer.status_code == 401
    event.remove(engine, "before_cursor_execute", note)
    assert texts == before


# ── what a key may ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_models_of_key_team_organisation_and_member_all_count(api, upstream):
    await api.post(
        "/organization/new", {"organization_id": "o", "organization_alias": "O", "models": ["m", "n", "up/*"]}
    )
    await api.post("/team/new", {"team_id": "t", "organization_id": "o", "models": ["m", "up/a"]})
    key = await api.key(team_id="t", models=["*"])
    assert (await api.chat(key, "m")).status_code == 200
    for model in ("n", "other/x", "M", "m ", "up/b"):
        assert (await api.chat(key, model)).status_code == 403, model
    await api.post("/team/member_add", {"team_id": "t", "member": {"user_id": "u"}, "allowed_models": ["up/a"]})
    own = await api.key(team_id="t", user_id="u")
    assert (await api.chat(own, "up/a")).status_code == 200
    denied = await api.chat(own, "m")
    assert denied.status_code == 403 and denied.json()["error"]["code"] == "model_access_denied"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "named",
    [
        {"models": ["a", "b"]},
        {"models": "b"},
        {"models": ["a", {"id": "b"}]},
        {"providerOptions": {"gateway": {"models": ["b"]}}},
        {"fallbacks": [{"model": "b"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "b", "max_uses": 1}]},
    ],
)
async def test_models_that_a_request_names_beside_its_own_count_too(api, upstream, named):
    """A broker takes another model of a list where the first fails."""
    key = await api.key(models=["up/a"])
    assert (await api.chat(key, "up/a", models=["a"], providerOptions={"gateway": {"order": ["x"]}})).status_code == 200
    denied = await api.chat(key, "up/a", **named)
    assert denied.status_code == 403 and denied.json()["error"]["code"] == "model_access_denied"
    assert "up/" in denied.text and len(upstream.requests) == 1
    assert (await api.chat(await api.key(), "up/a", models=["a", "b"])).status_code == 200


async def test_names_are_no_oracle_for_strangers(api):
    assert (await api.chat(mint(), "no-such-model")).status_code == 401
    assert (await api.chat(await api.key(models=["m"]), "no-such-model")).status_code == 403
    assert (await api.raw("GET", "/v1/models", key=None)).status_code == 401
    assert (await api.raw("GET", "/v1/models", key=mint())).status_code == 401


async def test_lists_of_models_show_what_the_key_may_use(api, admin_key):
    listed = {}
    for key in (await api.key(models=["m"]), admin_key):
        listed[key] = {model["id"] for model in (await api.get("/v1/models", key=key))["data"]}
    only, all_ = listed.values()
    assert only == {"m"} and all_ >= {"m", "n"}


async def test_aliases_of_a_key(api, upstream):
    key = await api.key(models=["m"], aliases={"gpt-4": "m", "sneaky": "n"})
    assert (await api.chat(key, "gpt-4")).status_code == 200
    assert upstream.requests[-1].document["model"] == "m"
    assert (await api.chat(key, "sneaky")).status_code == 403


async def test_routes_of_a_key(api):
    key = await api.key(allowed_routes=["/v1/embeddings", "moderations"])
    assert (await api.chat(key)).status_code == 403
    answer = await api.raw("POST", "/v1/embeddings", key=key, json={"model": "m", "input": "a"})
    assert answer.status_code == 200
    chat = await api.key(allowed_routes=["llm_api_routes"])
    assert (await api.chat(chat)).status_code == 200
    assert (await api.raw("GET", "/key/info", key=chat)).status_code == 403


@pytest.mark.parametrize(
    ("group", "serves"), [("google_routes", True), ("gemini_routes", True), ("openai_routes", False)]
)
async def test_groups_are_called_as_litellm_calls_them(api, group, serves):
    key = await api.key(allowed_routes=[group])
    answer = await api.raw(
        "POST", "/v1beta/models/m:generateContent", key=key, json={"contents": [{"parts": [{"text": "a"}]}]}
    )
    assert (answer.status_code != 403) is serves
    assert (await api.chat(key)).status_code == (403 if serves else 200)


async def test_a_key_of_some_models_cannot_hide_one_in_a_batch(api, upstream):
    key = await api.key(models=["m"])
    batch = {"input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert (await api.raw("POST", "/v1/batches", key=key, json=batch)).status_code == 403
    assert upstream.requests == []
    free = await api.key(allowed_routes=["batches"])
    assert (await api.raw("POST", "/v1/batches", key=free, json=batch)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/files"), ("GET", "/v1/files/f-1/content"), ("DELETE", "/v1/files/f-1"), ("GET", "/v1/batches"),
     ("GET", "/v1/responses/resp_1"), ("GET", "/v1beta/cachedContents")],
)  # fmt: skip
async def test_what_a_vendor_keeps_is_no_keys_own(api, upstream, method, path):
    """Another tenant's file is in the same account: a key reaches it only where its routes name that address."""
    refused = await api.raw(method, path, key=await api.key())
    assert refused.status_code == 403 and "allowed_routes" in refused.text
    assert (await api.raw(method, path, key=await api.key(allowed_routes=["llm_api_routes"]))).status_code == 403
    assert upstream.requests == []
    named = await api.raw(method, path, key=await api.key(allowed_routes=[path]))
    assert named.status_code != 403 or "allowed_routes" not in named.text
    assert (await api.raw(method, path, key=ADMIN)).status_code != 403


async def test_networks_of_a_key(api):
    assert (await api.chat(await api.key(allowed_networks=["10.0.0.0/8"]))).status_code == 403
    here = await api.key(allowed_networks=["127.0.0.1"])
    assert (await api.chat(here)).status_code == 200
    spoofed = await api.chat(await api.key(allowed_networks=["10.0.0.1"]), headers={"x-forwarded-for": "10.0.0.1"})
    assert spoofed.status_code == 403


async def test_a_trusted_proxy_says_who_is_behind_it(serve, sqlite_url):
    async with serve(sqlite_url, auth="trusted_proxies: [127.0.0.1], blocked: {networks: [203.0.113.0/24]}") as api:
        key = await api.key(allowed_networks=["10.0.0.1"])
        assert (await api.chat(key, headers={"x-forwarded-for": "1.1.1.1, 10.0.0.1"})).status_code == 200
        assert (await api.chat(key, headers={"x-forwarded-for": "10.0.0.1, 1.1.1.1"})).status_code == 403
        assert (await api.chat(key, headers={"x-forwarded-for": "203.0.113.9"})).status_code == 403
    async with serve(sqlite_url, auth="trusted_proxies: [10.9.9.9]") as api:  # and whoever is none of them says nothing
        assert (await api.chat(key, headers={"x-forwarded-for": "10.0.0.1"})).status_code == 403


@pytest.mark.parametrize(
    ("said", "status"), [("1.1.1.1, 10.0.0.1", 200), ("10.0.0.1, 1.1.1.1", 403), ("203.0.113.9", 403), (None, 403)]
)
async def test_the_admin_api_goes_by_the_same_address(serve, sqlite_url, said, status):
    """As the data plane: behind a trusted proxy by what it says, else by the connection."""
    headers = {"x-forwarded-for": said} if said else None
    async with serve(sqlite_url, auth="trusted_proxies: [127.0.0.1], blocked: {networks: [203.0.113.0/24]}") as api:
        key = await api.key(allowed_networks=["10.0.0.1"])
        assert (await api.raw("GET", "/key/info", key=key, headers=headers)).status_code == status
        assert (await api.chat(key, headers=headers)).status_code == status
        barred = 403 if said == "203.0.113.9" else 200
        assert (await api.raw("GET", "/key/list", headers=headers)).status_code == barred
    async with serve(sqlite_url) as api:  # the control: without a trusted proxy nobody is believed
        assert (await api.raw("GET", "/key/info", key=key, headers=headers)).status_code == 403


async def test_the_principal_says_who_calls(api, seen):
    await api.post("/organization/new", {"organization_id": "o", "organization_alias": "O", "max_budget": 100})
    await api.post(
        "/team/new", {"team_id": "t", "organization_id": "o", "max_budget": 50, "tags": ["x"], "metadata": {"a": 1}}
    )
    await api.post("/team/member_add", {"team_id": "t", "member": {"user_id": "u"}, "max_budget_in_team": 7})
    await api.post("/user/update", {"user_id": "u", "max_budget": 3})
    await api.post("/customer/new", {"user_id": "c", "max_budget": 2})
    key = await api.key(
        team_id="t", user_id="u", key_alias="ci", max_budget=0.1, rpm_limit=5, tags=["y"], metadata={"b": 2}
    )
    assert (await api.chat(key, user="c")).status_code == 200
    who = seen[-1]
    assert (who.alias, who.team, who.user, who.organisation, who.end_user) == ("ci", "t", "u", "o", "c")
    assert who.tags == {"x", "y"} and who.metadata == {"a": 1, "b": 2} and key not in repr(who)
    limits = {scope: policy.max_budget for scope, policy in who.policies["budget"].items()}
    dollar = 10**9
    # the user's own budget is not asked for a team's key
    assert limits == {
        "organisation": 100 * dollar,
        "team": 50 * dollar,
        "member": 7 * dollar,
        "key": dollar // 10,
        "end_user": 2 * dollar,
    }
    assert who.policies["ratelimit"]["key"].rpm_limit == 5
    await api.chat(key, user="c")
    assert seen[-1] is who


async def test_a_user_s_own_key_has_the_user_s_limits(api, seen):
    made = await api.post("/user/new", {"user_id": "u", "max_budget": 3, "models": ["m"]})
    assert (await api.chat(made["key"])).status_code == 200
    assert seen[-1].policies["budget"]["user"].max_budget == 3 * 10**9
    assert (await api.chat(made["key"], "n")).status_code == 403


async def test_sessions_of_claude_code_are_one_end_user(api):
    key = await api.key()
    written = [
        "user_ab12_account_77-88_session_00000000-1111-2222-3333-444444444444",
        "user_ab12_account_77-88_session_00000000-1111-2222-3333-555555555555",
        json.dumps({"device_id": "ab12", "account_uuid": "77-88", "session_id": "00000000-1111"}),
    ]
    await api.post("/customer/block", {"user_ids": ["user_ab12_account_77-88"]})
    for said in written:
        assert (await api.chat(key, metadata={"user_id": said})).status_code == 401
    for other in ["user_ab12_account_77-89_session_00000000-1111-2222-3333-444444444444", "{", '{"id": 1}']:
        assert (await api.chat(key, metadata={"user_id": other})).status_code == 200


@pytest.mark.parametrize(
    "carrier", ["user", "metadata", "x-litellm-end-user-id", "x-gwcore-end-user", "X-OpenWebUI-User-Id"]
)
async def test_end_users_can_be_blocked_and_limited(api, carrier):
    key = await api.key()

    def ask(who):
        if carrier == "user":
            return api.chat(key, user=who)
        if carrier == "metadata":
            return api.chat(key, metadata={"user_id": who})
        return api.chat(key, headers={carrier: who})

    assert (await ask("c")).status_code == 200
    await api.post("/customer/block", {"user_ids": ["c"]})
    assert (await ask("c")).status_code == 401
    assert (await ask("d")).status_code == 200
    await api.post("/customer/unblock", {"user_ids": ["c"]})
    assert (await ask("c")).status_code == 200
    await api.post("/end_user/new", {"user_id": "e", "models": ["n"]})
    assert (await ask("e")).status_code == 403
    await api.post("/end_user/new", {"user_id": "f", "models": ["m", "n"]})
    key = await api.key(models=["n"])
    assert (await ask("f")).status_code == 403  # what an end user may adds nothing to what the key may
    assert (await ask("x" * 300)).status_code == 400


async def test_a_header_of_ones_own_names_the_end_user_first_and_stays_here(serve, sqlite_url, upstream, seen):
    async with serve(sqlite_url, auth="end_user_header: X-Staff-Id") as api:
        key = await api.key()
        await api.chat(key, headers={"x-staff-id": "ann", "x-gwcore-end-user": "bob"}, user="carl")
        await api.chat(key, headers={"x-gwcore-end-user": "bob"}, user="carl")
        await api.chat(key, user="carl")
        assert [principal.end_user for principal in seen] == ["ann", "bob", "carl"]
        await api.post("/customer/block", {"user_ids": ["ann"]})
        assert (await api.chat(key, headers={"X-STAFF-ID": "ann"})).status_code == 401
    sent = {name for request in upstream.requests for name in request.headers}
    assert not [name for name in sent if "staff" in str(name) or "end-user" in str(name)]


@pytest.mark.parametrize("said", ["Jürgen".encode(), "Jürgen".encode("latin-1")])
async def test_an_end_user_is_the_same_in_a_header_as_in_a_body(api, said):
    key = await api.key()
    await api.post("/customer/block", {"user_ids": ["Jürgen"]})
    assert (await api.chat(key, user="Jürgen")).status_code == 401
    assert (await api.chat(key, headers={b"x-gwcore-end-user": said})).status_code == 401


async def test_expiry_is_exact(api):
    key = await api.key(duration="4s")  # a busy machine may take a second until it is used
    made = time.time()
    assert (await api.chat(key)).status_code == 200
    await asyncio.sleep(made + 4.3 - time.time())
    answer = await api.chat(key)
    assert answer.status_code == 401 and "Expired" in answer.text


async def test_cached_keys_cost_no_sql(api):
    key = await api.key()
    await asyncio.sleep(0.8)  # until the feed has told of the key
    assert (await api.chat(key, user="whoever")).status_code == 200
    statements = []
    engine = engine_of(api.auth.book.store).sync_engine

    def note(_connection, _cursor, statement, *_):
        if "auth_clock" not in statement and "auth_change" not in statement:  # the feed's own look
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    for _ in range(20):
        assert (await api.chat(key, user="whoever")).status_code == 200
    assert not [text for text in statements if "auth_" in text]
    api.auth.cache.clear()  # the control: what is not cached is asked for
    await api.chat(key)
    assert [text for text in statements if "auth_secret" in text]
    event.remove(engine, "before_cursor_execute", note)


async def test_a_crowd_with_one_new_key_asks_the_store_once(api, upstream):
    key = await api.key()
    asked = []
    original = api.auth.book.secret

    async def counted(id_):
        asked.append(id_)
        return await original(id_)

    api.auth.book.secret = counted
    answers = await asyncio.gather(*(api.chat(key) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(asked) < 5  # one, and another where the feed tells of the new key meanwhile


async def test_unknown_keys_are_remembered_and_forgotten_when_one_is_made(api):
    chosen = "sk-" + "Qw3rTy7uIoPaZxCvBnM9kLjHgFdSa2" + "XyZ"
    assert (await api.chat(chosen)).status_code == 401
    assert api.auth.cache.unknown
    await api.post("/key/generate", {"key": chosen})
    assert (await api.chat(chosen)).status_code == 200


# ── the stack file's own list, and who serves the admin API ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["keys", "teams", "users", "organisations", "end_users"])
async def test_the_blocked_list_is_stronger_than_the_store(serve, sqlite_url, upstream, kind):
    """Who stands in the stack file is refused, whatever the store says, on both planes."""
    async with serve(sqlite_url) as api:
        await api.post("/organization/new", {"organization_id": "o", "organization_alias": "O"})
        await api.post("/team/new", {"team_id": "t", "organization_id": "o"})
        made = await api.post("/key/generate", {"team_id": "t", "user_id": "u"})
        assert (await api.chat(made["key"], user="e")).status_code == 200  # the control
    ids = {"keys": made["token"], "teams": "t", "users": "u", "organisations": "o", "end_users": "e"}
    async with serve(sqlite_url, auth=f"blocked: {{{kind}: ['{ids[kind]}']}}") as api:
        calls = len(upstream.requests)
        assert (await api.chat(made["key"], user="e")).status_code == 401
        await api.post("/key/unblock", {"key": made["token"]})
        await api.post("/end_user/unblock", {"user_ids": ["e"]})
        assert (await api.chat(made["key"], user="e")).status_code == 401
        assert len(upstream.requests) == calls
        if kind != "end_users":
            assert (await api.raw("GET", "/key/info", key=made["key"])).status_code == 401
        assert (await api.chat(await api.key(), user="somebody else")).status_code == 200


async def test_a_gateway_that_is_mounted_serves_no_admin_api(upstream, sqlite_url, admin_key):
    """Langwatch's PR 3705: the admin API is an object of its own, which the host mounts or does not."""
    gateway = Gateway(stack_text(upstream.url, store=sqlite_url).replace("  - sees\n", ""))
    bearer = {"authorization": f"Bearer {admin_key}"}
    await gateway.startup()
    async with running(gateway) as url, httpx2.AsyncClient(trust_env=False) as http:
        for method, path in gateway.stack.admin.routes:
            assert (await http.request(method, url + path, headers=bearer, json={})).status_code == 404, path
        body = {"model": "m", "messages": []}
        assert (await http.post(f"{url}/v1/chat/completions", headers=bearer, json=body)).status_code == 200
        mounted = httpx2.ASGITransport(gateway.admin)
        async with httpx2.AsyncClient(transport=mounted, base_url="http://admin") as admin:
            assert (await admin.get("/key/list", headers=bearer)).status_code == 200
            assert (await admin.get("/key/list")).status_code == 401
            assert (await admin.post("/v1/chat/completions", headers=bearer, json=body)).status_code == 404

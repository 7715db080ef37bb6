"""The admin API in LiteLLM's shapes."""

import asyncio
import hashlib
import secrets
import time
from datetime import datetime

import pytest

from gwcore_auth.admin import desk
from gwcore_auth.admin.bodies import LIMIT_FIELDS
from gwcore_auth.keys import mint, presented

KEY_ROW = {
    "token", "key_name", "key_alias", "spend", "max_budget", "expires", "models", "aliases", "config", "user_id", "team_id",
    "max_parallel_requests", "metadata", "tpm_limit", "rpm_limit", "budget_duration", "budget_reset_at",
    "allowed_cache_controls", "allowed_routes", "permissions", "model_spend", "model_max_budget", "soft_budget_cooldown",
    "blocked", "litellm_budget_table", "org_id", "created_at", "created_by", "updated_at", "updated_by",
}  # fmt: skip
TYPICAL = {
    "models": ["m"], "duration": "30d", "max_budget": 10, "budget_duration": "30d", "tpm_limit": 20000, "rpm_limit": 60,
    "key_alias": "ci", "team_id": "t1", "user_id": "u1", "metadata": {"app": "x"}, "aliases": {"gpt-4": "m"},
}  # fmt: skip


async def test_a_typical_key(api):
    await api.post("/team/new", {"team_id": "t1", "team_alias": "research"})
    began = time.time()
    made = await api.post("/key/generate", TYPICAL)
    assert {*KEY_ROW, "key", "token_id"} <= set(made)
    assert made["key_name"] == f"sk-...{made['key'][-4:]}" and made["token"] == made["token_id"]
    assert {name: made[name] for name in TYPICAL if name != "duration"} == {
        k: v for k, v in TYPICAL.items() if k != "duration"
    }
    assert isinstance(made["max_budget"], float) and made["spend"] == 0.0 and made["created_by"] == "admin"
    expires = datetime.fromisoformat(made["expires"]).timestamp()
    assert began + 30 * 86400 <= expires + 0.002 <= time.time() + 30 * 86400 + 0.002  # exact, at no boundary (I11)
    info = await api.get(f"/key/info?key={made['key']}")
    assert info["key"] == made["key"] and info["info"]["status"] == "active" and "token" not in info["info"]
    assert (await api.get(f"/key/info?key={made['token']}"))["info"] == info["info"]
    own = await api.get("/key/info", key=made["key"])
    assert own["info"]["key_alias"] == "ci"
    assert made["key"] not in str(info["info"]) + str(own["info"])  # shown once


async def test_update_sets_clears_and_leaves(api):
    made = await api.post("/key/generate", {"max_budget": 10, "rpm_limit": 5, "models": ["m"], "metadata": {"a": 1}})
    key = made["key"]
    after = await api.post("/key/update", {"key": key, "max_budget": 20, "rpm_limit": None, "models": ["n"]})
    assert (after["max_budget"], after["rpm_limit"], after["models"], after["metadata"]) == (
        20.0,
        None,
        ["n"],
        {"a": 1},
    )
    assert (await api.chat(key, "m")).status_code == 403 and (await api.chat(key, "n")).status_code == 200
    again = await api.get(f"/key/info?key={key}")
    assert again["info"]["max_budget"] == 20.0 and again["info"]["expires"] is None
    timed = await api.post("/key/update", {"key": made["token"], "duration": "1h"})
    assert timed["expires"] is not None
    assert (await api.post("/key/update", {"key": key, "duration": None}))["expires"] is None


async def test_block_unblock_delete(api):
    made = await api.post("/key/generate", {"key_alias": "a"})
    key = made["key"]
    blocked = await api.post("/key/block", {"key": key})
    assert blocked["blocked"] is True
    refused = await api.chat(key)
    assert (
        refused.status_code == 401 and "Key is blocked. Update via `/key/unblock` if you're an admin." in refused.text
    )
    assert (await api.get(f"/key/info?key={key}"))["info"]["status"] == "revoked"
    await api.post("/key/unblock", {"key": key})
    assert (await api.chat(key)).status_code == 200
    assert await api.post("/key/delete", {"key_aliases": ["a"]}) == {"deleted_keys": ["a"]}
    missing = await api.post("/key/delete", {"keys": [key]}, status=404)
    assert missing["error"] == {"message": "Key not found.", "type": "not_found_error", "param": None, "code": "404"}
    assert missing["detail"] == {"error": "Key not found."}


async def test_deleting_is_all_or_nothing(api):
    key = await api.key()
    await api.post("/key/delete", {"keys": [key, mint()]}, status=404)
    assert (await api.chat(key)).status_code == 200


async def test_a_key_that_only_its_client_knows_is_made_of_its_digest(api):
    """What LiteLLM's database holds of one."""
    key = f"sk-{secrets.token_urlsafe(16)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    made = await api.post("/key/generate", {"sha256": digest, "models": ["m"], "key_alias": "old"})
    assert (made["key"], made["token"], made["key_name"]) == (None, digest, "")
    assert (await api.chat(key)).status_code == 200
    assert (await api.chat(key, "n")).status_code == 403
    assert (await api.chat(digest)).status_code == 401  # what a dump of that database holds opens nothing
    await api.post("/key/generate", {"sha256": digest}, status=409)
    again = await api.post("/key/regenerate", {"key": digest})
    assert (await api.chat(again["key"])).status_code == 200
    assert (await api.chat(key)).status_code == 401


async def test_regenerate_with_grace_works_to_the_second(api):
    """I11."""
    made = await api.post("/key/generate", {"models": ["m"]})
    began = time.time()
    again = await api.post("/key/regenerate", {"key": made["key"], "grace_period": "2s"})
    assert again["token"] == made["token"] and again["key"] != made["key"]
    assert (await api.chat(again["key"])).status_code == 200
    while time.time() < began + 1.7:
        assert (await api.chat(made["key"])).status_code == 200
        await asyncio.sleep(0.2)
    await asyncio.sleep(max(0.0, began + 2.6 - time.time()))
    assert (await api.chat(made["key"])).status_code == 401
    third = await api.post(f"/key/{made['token']}/regenerate", {"max_budget": 1})
    assert third["max_budget"] == 1.0
    assert (await api.chat(again["key"])).status_code == 401  # no grace: at once
    assert (await api.chat(third["key"])).status_code == 200
    assert (await api.chat(third["key"], "n")).status_code == 403


async def test_lists_of_keys(api):
    await api.post("/team/new", {"team_id": "t"})
    for n in range(5):
        await api.key(key_alias=f"alias-{n}", **({"team_id": "t"} if n < 3 else {}))
    page = await api.get("/key/list?size=2&page=2")
    assert (page["total_count"], page["current_page"], page["total_pages"], len(page["keys"])) == (5, 2, 3, 2)
    assert all(isinstance(key, str) for key in page["keys"])
    full = await api.get("/key/list?team_id=t&return_full_object=true")
    assert {row["key_alias"] for row in full["keys"]} == {"alias-0", "alias-1", "alias-2"} and set(
        full["keys"][0]
    ) >= KEY_ROW
    assert (await api.get("/key/list?search=ALIAS-4"))["total_count"] == 1
    assert (await api.get("/key/list?search=%25"))["total_count"] == 0  # a wildcard is text (CVE-2026-25591)
    assert sorted((await api.get("/key/aliases"))["aliases"]) == [f"alias-{n}" for n in range(5)]
    for wrong in ("size=0", "size=101", "page=0", "page=x"):
        await api.get(f"/key/list?{wrong}", status=400)


async def test_teams(api):
    new = await api.post(
        "/team/new",
        {
            "team_id": "t",
            "team_alias": "T",
            "max_budget": 50,
            "budget_duration": "30d",
            "members_with_roles": [{"role": "admin", "user_id": "u1"}],
        },
    )
    assert new["team_id"] == "t" and new["max_budget"] == 50.0 and new["admins"] == ["u1"]
    twice = await api.post("/team/new", {"team_id": "t"}, status=400)
    assert twice["detail"]["error"] == "Team id = t already exists. Please use a different team id."
    await api.post("/team/new", {"soft_budget": 5, "max_budget": 5}, status=400)
    changed = await api.post("/team/update", {"team_id": "t", "max_budget": 100})
    assert (
        changed["team_id"] == "t"
        and changed["data"]["max_budget"] == 100.0
        and changed["data"]["budget_duration"] == "30d"
    )
    added = await api.post(
        "/team/member_add",
        {
            "team_id": "t",
            "member": [{"role": "user", "user_id": "u2"}, {"role": "user", "user_email": "a@b.c"}],
            "max_budget_in_team": 5,
        },
    )
    assert (
        len(added["updated_users"]) == 2
        and added["updated_team_memberships"][0]["litellm_budget_table"]["max_budget"] == 5.0
    )
    key = await api.key(team_id="t", user_id="u2")
    info = await api.get("/team/info?team_id=t")
    assert info["team_info"]["team_alias"] == "T" and len(info["keys"]) == 1 and len(info["team_memberships"]) == 3
    assert [team["team_id"] for team in await api.get("/team/list")] == ["t"]
    assert (await api.get("/v2/team/list"))["total"] == 1
    assert await api.get("/team/available") == [], "nobody joins a team by himself"
    await api.post("/team/block", {"team_id": "t"})
    assert (await api.chat(key)).status_code == 401
    await api.post("/team/unblock", {"team_id": "t"})
    assert (await api.chat(key)).status_code == 200
    updated = await api.post(
        "/team/member_update", {"team_id": "t", "user_id": "u2", "role": "admin", "max_budget_in_team": 6}
    )
    assert updated["role"] == "admin" and updated["litellm_budget_table"]["max_budget"] == 6.0
    await api.post("/team/member_delete", {"team_id": "t", "user_email": "a@b.c"})
    await api.post("/team/member_delete", {"team_id": "t", "user_id": "u2"})
    assert (await api.chat(key)).status_code == 401  # the member's key in the team went with the membership
    other = await api.key(team_id="t")
    assert await api.post("/team/delete", {"team_ids": ["t"]}) == {"deleted_teams": ["t"]}
    assert (await api.chat(other)).status_code == 401
    gone = await api.get("/team/info?team_id=t", status=404)
    assert gone["error"]["message"] == "Team not found, passed team id: t."


async def test_lists_show_what_a_look_at_one_shows(api):
    people = [{"role": "admin", "user_id": "u1"}, {"role": "user", "user_email": "a@b.c"}]
    await api.post("/team/new", {"team_id": "t", "members_with_roles": people})
    await api.post("/team/new", {"team_id": "empty"})
    await api.key(team_id="t", user_id="u1")
    info = await api.get("/team/info?team_id=t")
    assert len(info["keys"]) == 1 and len(info["team_memberships"]) == 2
    listed = {team["team_id"]: team for team in await api.get("/team/list")}
    assert listed["t"] == {**info["team_info"], "keys": info["keys"], "team_memberships": info["team_memberships"]}
    assert (listed["empty"]["keys"], listed["empty"]["team_memberships"]) == ([], [])
    roles = {(one["role"], one["user_email"]) for one in listed["t"]["members_with_roles"]}
    assert roles == {("admin", None), ("user", "a@b.c")}
    users = (await api.get("/user/list"))["users"]
    assert len(users) == 2 and all(user["teams"] == ["t"] for user in users)
    assert (await api.get("/user/info?user_id=u1"))["teams"] == [info["team_info"]]
    pages = await api.get("/v2/team/list")
    assert pages["total"] == 2 and info["team_info"] in pages["teams"]


async def test_models_of_a_team(api):
    await api.post("/team/new", {"team_id": "t", "models": ["m"]})
    key = await api.key(team_id="t")
    assert (await api.chat(key, "n")).status_code == 403
    assert (await api.post("/team/model/add", {"team_id": "t", "models": ["n", "m"]}))["models"] == ["m", "n"]
    assert (await api.chat(key, "n")).status_code == 200
    assert (await api.post("/team/model/delete", {"team_id": "t", "models": ["n"]}))["models"] == ["m"]
    assert (await api.chat(key, "n")).status_code == 403
    await api.post("/team/model/delete", {"team_id": "t", "models": ["m"]}, status=400)  # would allow everything
    assert (await api.chat(key, "n")).status_code == 403


async def test_several_keys_at_once(api):
    made = [await api.post("/key/generate", {"key_alias": f"k{n}"}) for n in range(2)]
    asked = [made[0]["key"], made[1]["token"]]
    found = await api.post("/v2/key/info", {"keys": asked})
    assert found["key"] == asked and [row["key_alias"] for row in found["info"]] == ["k0", "k1"]
    named = await api.post("/v2/key/info", {"key_aliases": ["k1"]})
    assert [row["key_name"] for row in named["info"]] == [made[1]["key_name"]]
    await api.post("/v2/key/info", {"keys": [made[0]["key"], mint()]}, status=404)
    await api.post("/v2/key/info", {"keys": [made[0]["key"]]}, key=made[1]["key"], status=403)
    assert await api.post("/key/health", key=made[0]["key"]) == {"key": "healthy", "logging_callbacks": None}


async def test_users(api):
    new = await api.post(
        "/user/new", {"user_id": "u", "user_email": "u@x.y", "user_role": "internal_user", "max_budget": 3}
    )
    assert new["key"].startswith("sk-") and new["user_id"] == "u" and new["max_budget"] == 3.0
    await api.post("/user/new", {"user_id": "u"}, status=409)
    assert (await api.chat(new["key"])).status_code == 200
    info = await api.get("/user/info?user_id=u")
    assert info["user_info"]["user_role"] == "internal_user" and len(info["keys"]) == 1 and info["teams"] == []
    assert (await api.get("/user/info", key=new["key"]))["user_id"] == "u"
    assert await api.get("/v2/user/info", key=new["key"]) == info["user_info"]
    changed = await api.post("/user/update", {"user_id": "u", "user_alias": "U", "models": ["m"]})
    assert changed["data"]["user_alias"] == "U" and changed["data"]["max_budget"] == 3.0
    assert (await api.chat(new["key"], "n")).status_code == 403
    listed = await api.get("/user/list?page_size=10")
    assert listed["total"] == 1 and listed["users"][0]["user_email"] == "u@x.y" and listed["users"][0]["teams"] == []
    await api.post("/user/delete", {"user_ids": ["u"]})
    assert (await api.chat(new["key"])).status_code == 401
    bare = await api.post("/user/new", {"auto_create_key": False})
    assert bare["key"] is None


async def test_organisations(api):
    new = await api.post("/organization/new", {"organization_alias": "O", "max_budget": 9, "models": ["m"]})
    id_ = new["organization_id"]
    assert new["max_budget"] == 9.0
    await api.ask("PATCH", "/organization/update", json={"organization_id": id_, "models": ["m", "n"]})
    team = await api.post("/team/new", {"organization_id": id_})
    key = await api.key(team_id=team["team_id"])
    await api.post(
        "/organization/member_add", {"organization_id": id_, "member": {"role": "org_admin", "user_id": "boss"}}
    )
    info = await api.get(f"/organization/info?organization_id={id_}")
    assert info["models"] == ["m", "n"] and info["members"][0]["user_role"] == "org_admin" and len(info["teams"]) == 1
    assert [row["organization_id"] for row in await api.get("/organization/list")] == [id_]
    await api.ask(
        "PATCH",
        "/organization/member_update",
        json={"organization_id": id_, "user_id": "boss", "role": "internal_user"},
    )
    await api.ask("DELETE", "/organization/member_delete", json={"organization_id": id_, "user_id": "boss"})
    assert (await api.chat(key)).status_code == 200
    await api.ask("DELETE", "/organization/delete", json={"organization_ids": [id_]})
    assert (await api.chat(key)).status_code == 401
    await api.get(f"/team/info?team_id={team['team_id']}", status=404)


async def test_customers(api):
    await api.post("/customer/new", {"user_id": "c", "alias": "C", "max_budget": 1})
    await api.post("/customer/new", {"user_id": "c"}, status=409)
    changed = await api.post("/end_user/update", {"user_id": "c", "max_budget": 2})
    assert changed["max_budget"] == 2.0 and changed["alias"] == "C"
    assert (await api.get("/customer/info?end_user_id=c"))["user_id"] == "c"
    assert len(await api.get("/end_user/list")) == 1
    assert (await api.post("/customer/delete", {"user_ids": ["c"]}))["deleted_customers"] == 1
    await api.get("/customer/info?end_user_id=c", status=404)


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"modles": ["m"]}, 422, "modles"),
        ({"models": "m"}, 422, "models"),
        ({"max_budget": -1}, 422, "max_budget"),
        ({"guardrails": ["pii"]}, 422, "guardrails"),
        ({"permissions": {"get_spend_routes": True}}, 422, "permissions"),
        ({"duration": "soon"}, 400, "duration"),
        ({"duration": "4000000d"}, 400, "year 9999"),
        ({"duration": "9" * 400 + "d"}, 400, "year 9999"),
        ({"key_alias": "a\0b"}, 400, "NUL"),
        ({"team_id": "nobody"}, 404, "Team not found"),
        ({"organization_id": "nobody"}, 404, "Organization not found"),
        ({"policies": {"rules": {"a": 1}}}, 400, "rules"),
        ({"policies": {"budget": {"max_bugdet": 1}}}, 400, "max_bugdet"),
        ({"key": "sk-1234"}, 400, "example"),
        ({"key": "sk-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, 400, "different characters"),
        ({"key": "Qw3rTy7uIoPaZxCvBnM9kLjHgFdSa2XyZw"}, 400, "sk-"),
        ({"sha256": hashlib.sha256(b"sk-1234").hexdigest()}, 422, "example"),
        ({"sha256": "A" * 64}, 422, "sha256"),
        ({"sha256": "0" * 64, "key": f"sk-{'0123456789' * 4}"}, 400, "send only one"),
        ({"allowed_networks": ["10.0.0.0/99"]}, 422, "network"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
async def test_mistakes_are_said(sqlite_api, body, status, says):
    told = await sqlite_api.post("/key/generate", body, status=status)
    assert says in told["error"]["message"] and told["error"]["code"] == str(status)
    assert (await sqlite_api.get("/key/list"))["total_count"] == 0


async def test_a_row_of_an_older_release_that_ends_behind_all_dates_is_listed(sqlite_api, monkeypatch):
    """Of each list that held one such key, only a 500 was left."""
    monkeypatch.setattr(desk, "_LAST", 1 << 60)
    await sqlite_api.raw("POST", "/key/generate", json={"duration": "4000000d"})
    monkeypatch.undo()
    listed = await sqlite_api.get("/key/list", return_full_object="true")
    assert [row["expires"][:4] for row in listed["keys"]] == ["9999"]


async def test_a_nul_character_is_the_callers_mistake_wherever_it_stands(api):
    """PostgreSQL keeps none: each of a hundred fields and parameters was an internal error."""
    key = await api.key()
    for path, body in (("/key/update", {"key": key, "metadata": {"a": ["\0"]}}), ("/team/new", {"team_alias": "\0"})):
        assert "NUL" in (await api.post(path, body, status=400))["error"]["message"]
    for path, query in (
        ("/key/list", {"team_id": "\0"}),
        ("/team/info", {"team_id": "a\0"}),
        ("/user/list", {"role": "\0"}),
    ):
        assert "NUL" in (await api.get(path, status=400, **query))["error"]["message"]
    assert "NUL" in (await api.post("/key/a%00b/regenerate", {}, status=400))["error"]["message"]
    named = await api.post("/key/update", {"key": key, "key_alias": "a\\u0000b"})  # a backslash, and no NUL
    assert named["key_alias"] == "a\\u0000b"


async def test_what_litellm_sends_and_means_nothing_by_is_accepted(sqlite_api):
    empty = {
        "guardrails": [],
        "permissions": {},
        "config": {},
        "spend": 0,
        "send_invite_email": False,
        "policies": [],
        "object_permission": None,
    }
    made = await sqlite_api.post("/key/generate", {**empty, "models": None})
    assert made["models"] == []
    told = await sqlite_api.post("/key/update", {"key": made["key"], "spend": 0}, status=422)
    assert "reset" in told["error"]["message"]  # means something, and nothing of ours does it


async def test_the_words_of_litellm_land_in_the_policies(sqlite_api, seen):
    """Every limit reaches the plugin whose it is, as its own model, whatever it is set on."""
    limits = {
        "max_budget": 10.5, "soft_budget": 8, "budget_duration": "30d", "model_max_budget": {"m": {"max_budget": 1, "budget_duration": "1d"}},
        "rpm_limit": 60, "tpm_limit": 20000, "tpd_limit": 900000, "max_parallel_requests": 4,
        "model_rpm_limit": {"m": 30}, "model_tpm_limit": {"m": 9000}, "temp_budget_increase": 2, "temp_budget_expiry": "2999-01-01T00:00:00Z",
    }  # fmt: skip
    shown = {
        "organisation": await sqlite_api.post("/organization/new", {"organization_id": "o", "organization_alias": "O", **limits}),
        "team": await sqlite_api.post("/team/new", {"team_id": "t", "organization_id": "o", **limits}),
        "end_user": await sqlite_api.post("/customer/new", {"user_id": "c", **limits}),
        "key": await sqlite_api.post("/key/generate", {"team_id": "t", **limits}),
    }  # fmt: skip
    for row in shown.values():
        assert {name: row[name] for name in limits} == limits
    assert shown["end_user"]["litellm_budget_table"]["max_budget"] == 10.5
    assert (await sqlite_api.chat(shown["key"]["key"], user="c")).status_code == 200
    policies = seen[-1].policies
    assert set(policies["budget"]) == set(policies["ratelimit"]) == set(shown)
    for scope in shown:
        budget, rate = policies["budget"][scope], policies["ratelimit"][scope]
        assert (budget.max_budget, budget.soft_budget, budget.budget_duration) == (10_500_000_000, 8 * 10**9, "30d")
        assert budget.model_max_budget["m"].limit == 10**9 and budget.bonus[0] == 2 * 10**9
        assert rate.model_dump() == {name: limits[name] for name in type(rate).model_fields}


async def test_a_key_of_litellm_s_is_taken_over(api):
    """Its own shape, and the id under which LiteLLM keeps it."""
    theirs = f"sk-{secrets.token_urlsafe(16)}"
    made = await api.post("/key/generate", {"key": theirs, "key_alias": "old"})
    assert made["token"] == hashlib.sha256(theirs.encode()).hexdigest()
    assert (await api.chat(theirs)).status_code == 200
    assert (await api.get(f"/key/info?key={made['token']}"))["info"]["key_alias"] == "old"
    assert (await api.chat(made["token"])).status_code == 401
    await api.post("/key/generate", {"key": theirs}, status=409)
    await api.post("/key/generate", {"key": "sk-" + secrets.token_urlsafe(12)}, status=400)


async def test_an_alias_stands_once(api):
    await api.key(key_alias="ci")
    await api.post("/key/generate", {"key_alias": "ci"}, status=409)
    assert (await api.get("/key/list"))["total_count"] == 1


async def test_references_are_never_resolved(sqlite_api, monkeypatch):
    """CVE-2026-35029: ${VAR} in what an admin writes is text."""
    monkeypatch.setenv("CANARY", "env-canary")
    made = await sqlite_api.post(
        "/key/generate", {"metadata": {"a": "${CANARY}", "b": "os.environ/CANARY", "c": "{{7*7}}"}}
    )
    assert made["metadata"] == {"a": "${CANARY}", "b": "os.environ/CANARY", "c": "{{7*7}}"}


async def test_declared_keys_are_read_only_and_work(serve, sqlite_url, upstream, seen):
    secret, other = mint(), mint()
    auth = (
        f"keys: {{ci: {{secret: {secret}, team: gitops, models: [m], policies: {{budget: {{max_budget: 5}}}}}}, "
        f"hashed: {{sha256: {hashlib.sha256(other.encode()).hexdigest()}, expires: 2000-01-01}}}}, "
        "teams: {gitops: {models: [m, n], policies: {budget: {max_budget: 50}}}}"
    )
    async with serve(sqlite_url, auth=auth) as api:
        assert (await api.chat(secret)).status_code == 200
        assert {s: p.max_budget for s, p in seen[-1].policies["budget"].items()} == {
            "key": 5 * 10**9,
            "team": 50 * 10**9,
        }
        assert (await api.chat(secret, "n")).status_code == 403
        expired = await api.chat(other)
        assert expired.status_code == 401 and "Expired" in expired.text
        for path, body in (
            ("/key/update", {"key": "ci", "models": []}),
            ("/key/block", {"key": secret}),
            ("/key/delete", {"keys": ["ci"]}),
            ("/key/regenerate", {"key": "ci"}),
            (
                "/key/generate",
                {"sha256": hashlib.sha256(secret.encode()).hexdigest()},
            ),  # never what a request would get
            ("/team/update", {"team_id": "gitops", "models": []}),
            ("/team/delete", {"team_ids": ["gitops"]}),
        ):
            refused = await api.post(path, body, status=409)
            assert "stack file" in refused["error"]["message"]
        listed = await api.get("/key/list?return_full_object=true")
        assert {row["token"] for row in listed["keys"]} == {"ci", "hashed"} and secret not in str(listed)
        mine = await api.key(team_id="gitops")  # a key of the store in a team of the file
        assert (await api.chat(mine, "n")).status_code == 200
        assert (await api.get("/key/list?team_id=gitops"))["total_count"] == 2


async def test_openapi_describes_every_route(sqlite_api):
    described = await sqlite_api.get("/openapi.json")
    operations = {(method.upper(), path) for path, entry in described["paths"].items() for method in entry}
    routes = set(sqlite_api.gateway.stack.admin.routes)
    assert operations == routes and len(routes) >= 50
    body = described["components"]["schemas"]["NewKey"]["properties"]
    assert set(LIMIT_FIELDS) <= set(body) and "description" in body["max_budget"]
    assert described["paths"]["/key/{key}/regenerate"]["post"]["parameters"][0]["name"] == "key"


async def test_wrong_methods_and_bodies(sqlite_api, admin_key):
    assert "POST" in (await sqlite_api.get("/key/generate", status=404))["error"]["message"]
    url, headers = f"{sqlite_api.url}/key/generate", {"authorization": f"Bearer {admin_key}"}
    for content, status in (
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"models":[],"models":["m"]}', 400),
        (b"x" * 2_000_000, 413),
        (b'{"a":' * 500 + b"1" + b"}" * 500, 400),
    ):
        assert (await sqlite_api.http.post(url, content=content, headers=headers)).status_code == status, content[:20]


async def test_ids_of_keys_are_never_keys(api):
    made = await api.post("/key/generate", {})
    for text in (made["token"], presented(made["key"]).proof, made["key_name"]):
        assert (await api.chat(text)).status_code == 401

"""Keys that somebody else made or holds, too: they give nobody the rights of their user, and their owner does not loosen them."""

from dataclasses import replace

import pytest

from gwcore_auth import policy
from gwcore_auth.authority import Callers


async def world(api):
    """Mallory leads team A and nothing else; Bob leads team B and an organisation, and has a key of his own."""
    for team in ("A", "B"):
        await api.post("/team/new", {"team_id": team})
    await api.post("/organization/new", {"organization_id": "X", "organization_alias": "X"})
    who = {name: await api.post("/user/new", {"user_id": name}) for name in ("mallory", "bob")}
    for team, name in (("A", "mallory"), ("B", "bob")):
        await api.post("/team/member_add", {"team_id": team, "member": {"user_id": name, "role": "admin"}})
    boss = {"organization_id": "X", "member": {"user_id": "bob", "role": "org_admin"}}
    await api.post("/organization/member_add", boss)
    return who["mallory"]["key"], who["bob"]


async def borrowed(api, mallory, bob, how):
    """A key that is Bob's by its row, of which Mallory knows the secret."""
    joins = {"team_id": "A", "member": {"user_id": "bob", "role": "user"}}
    await api.post("/team/member_add", joins, key=mallory)
    if how == "made":
        return (await api.post("/key/generate", {"team_id": "A", "user_id": "bob"}, key=mallory))["key"]
    if how == "given away":
        made = await api.post("/key/generate", {"team_id": "A"}, key=mallory)
        await api.post("/key/update", {"key": made["token"], "user_id": "bob"}, key=mallory)
        return made["key"]
    made = await api.post("/key/generate", {"team_id": "A", "user_id": "bob"})  # by the admin
    return (await api.post("/key/regenerate", {"key": made["token"]}, key=mallory))["key"]


async def taken(api, key, bob):
    """What such a key reaches of what is Bob's and not its team's."""
    tried = [
        ("GET", "/team/info?team_id=B", None),
        ("GET", "/organization/info?organization_id=X", None),
        ("GET", "/user/info?user_id=bob", None),
        ("GET", f"/key/info?key={bob['token']}", None),
        ("POST", "/team/update", {"team_id": "B", "team_alias": "taken"}),
        ("POST", "/team/member_add", {"team_id": "B", "member": {"user_id": "mallory", "role": "admin"}}),
        ("POST", "/key/generate", {}),
        ("POST", "/key/generate", {"user_id": "bob"}),
        ("POST", "/key/update", {"key": bob["token"], "metadata": {"taken": True}}),
        ("POST", "/key/regenerate", {"key": bob["token"]}),
    ]
    return [
        (method, path)
        for method, path, body in tried
        if (await api.raw(method, path, key=key, json=body)).status_code < 400
    ]


@pytest.mark.parametrize("how", ["made", "given away", "rotated"])
async def test_a_leader_of_a_team_does_not_become_its_members(sqlite_api, how):
    mallory, bob = await world(sqlite_api)
    key = await borrowed(sqlite_api, mallory, bob, how)
    assert await taken(sqlite_api, key, bob) == []
    assert (await sqlite_api.chat(key)).status_code == 200  # it is good for calls, and reads itself
    assert (await sqlite_api.get("/key/info", key=key))["info"]["team_id"] == "A"
    assert len(await taken(sqlite_api, bob["key"], bob)) == 10  # Bob himself does all of it


async def test_control_where_a_key_of_a_team_is_its_user_the_leader_takes_everything(sqlite_api, monkeypatch):
    async def as_user(self, who, _role, grant):
        return await self._of_grant(replace(grant, principal=replace(who, team=None)), "")

    monkeypatch.setattr(Callers, "_of_key", as_user)
    mallory, bob = await world(sqlite_api)
    assert len(await taken(sqlite_api, await borrowed(sqlite_api, mallory, bob, "made"), bob)) == 10


async def test_a_leader_s_key_of_the_team_leads_that_team(sqlite_api):
    await world(sqlite_api)
    key = await sqlite_api.key(team_id="A", user_id="mallory")
    made = await sqlite_api.post("/key/generate", {"team_id": "A"}, key=key)
    assert made["token"] in str(await sqlite_api.get("/key/list", key=key))
    await sqlite_api.post("/team/member_add", {"team_id": "A", "member": {"user_id": "new", "role": "user"}}, key=key)
    assert (await sqlite_api.raw("GET", "/team/info", key=key, team_id="B")).status_code == 403


async def test_an_admin_s_key_of_a_team_is_no_admin_s(sqlite_api):
    """Its leader may have made it while its user was none yet."""
    mallory, bob = await world(sqlite_api)
    key = await borrowed(sqlite_api, mallory, bob, "made")
    await sqlite_api.post("/user/update", {"user_id": "bob", "user_role": "proxy_admin"})
    assert (await sqlite_api.raw("GET", "/user/list", key=key)).status_code == 403
    assert (await sqlite_api.raw("GET", "/user/list", key=bob["key"])).status_code == 200


# ── owners ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LOOSER = [
    ({"max_budget": 1}, {"budget_duration": "1s"}),
    ({"budget_id": "small"}, {"max_budget": 1e6}),
    ({"budget_id": "small"}, {"budget_duration": "1s"}),
    ({"allowed_routes": ["/v1/embeddings"]}, {"key_type": "llm_api"}),
    ({"allowed_routes": ["/v1/embeddings"]}, {"key_type": "management"}),
    ({"key_type": "llm_api"}, {"allowed_routes": ["/v1/files", "management_routes"]}),
]


async def loosened(api, given, change):
    await api.post("/budget/new", {"budget_id": "small", "max_budget": 1})
    await api.post("/team/new", {"team_id": "A"})
    owner = await api.post("/user/new", {"user_id": "owner"})
    await api.post("/team/member_add", {"team_id": "A", "member": {"user_id": "owner", "role": "user"}})
    limited = await api.post("/key/generate", {"user_id": "owner", "team_id": "A", **given})
    return await api.raw("POST", "/key/update", key=owner["key"], json={"key": limited["token"], **change})


@pytest.mark.parametrize(("given", "change"), LOOSER)
async def test_nothing_beside_a_limit_loosens_it(sqlite_api, given, change):
    answer = await loosened(sqlite_api, given, change)
    assert answer.status_code == 403 and next(iter(change)) in answer.text, answer.text


@pytest.mark.parametrize(("given", "change"), LOOSER)
async def test_control_each_of_them_would_pass(sqlite_api, monkeypatch, given, change):
    monkeypatch.setattr(policy, "_LOOSENS", {})
    monkeypatch.setattr(policy, "words_of", lambda routes, _kind: routes)
    assert (await loosened(sqlite_api, given, change)).status_code == 200


@pytest.mark.parametrize(
    ("given", "change"),
    [
        ({"max_budget": 2}, {"max_budget": 1, "soft_budget": 0.5}),
        ({}, {"max_budget": 1, "budget_duration": "1d"}),
        ({}, {"key_type": "llm_api"}),
        ({"allowed_routes": ["/v1/embeddings", "/v1/rerank"]}, {"allowed_routes": ["/v1/embeddings"]}),
    ],
)
async def test_an_owner_may_tighten(sqlite_api, given, change):
    answer = await loosened(sqlite_api, given, change)
    assert answer.status_code == 200, answer.text

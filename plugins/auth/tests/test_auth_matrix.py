"""S3: every route by every credential, generated from the route table. A new route without a row fails here."""

import asyncio
import secrets

import pytest

from gwcore.assemble import assemble
from gwcore.errors import Forbidden
from gwcore.gateway import Gateway
from gwcore.ports import AdminCall, AdminRoute
from gwcore_auth import policy
from gwcore_auth.authority import KnownCaller
from gwcore_auth.keys import mint

# A admin · V viewer · O leads an organisation · T leads a team · U user · R reader · K a key without a user
ALL, LISTS, WRITES, LEADS, ORGS, READS, ADMIN = "AVOTURK", "AVOTUR", "AOTU", "AOT", "AO", "AV", "A"
MATRIX = {
    ("GET", "/openapi.json"): ALL,
    ("POST", "/key/generate"): WRITES,
    ("POST", "/key/update"): WRITES,
    ("POST", "/key/delete"): WRITES,
    ("POST", "/key/block"): WRITES,
    ("POST", "/key/unblock"): ORGS,
    ("POST", "/key/regenerate"): WRITES,
    ("POST", "/key/{key}/regenerate"): WRITES,
    ("GET", "/key/info"): ALL,
    ("POST", "/v2/key/info"): ALL,
    ("POST", "/key/health"): ALL,
    ("GET", "/key/list"): LISTS,
    ("GET", "/key/aliases"): LISTS,
    ("POST", "/team/new"): ORGS,
    ("POST", "/team/update"): LEADS,
    ("POST", "/team/delete"): ORGS,
    ("GET", "/team/info"): ALL,
    ("GET", "/team/list"): LISTS,
    ("GET", "/team/available"): LISTS,
    ("GET", "/v2/team/list"): LISTS,
    ("POST", "/team/block"): ORGS,
    ("POST", "/team/unblock"): ORGS,
    ("POST", "/team/model/add"): LEADS,
    ("POST", "/team/model/delete"): LEADS,
    ("POST", "/team/member_add"): LEADS,
    ("POST", "/team/member_update"): LEADS,
    ("POST", "/team/member_delete"): LEADS,
    ("POST", "/user/new"): ADMIN,
    ("POST", "/user/update"): WRITES,
    ("POST", "/user/delete"): ADMIN,
    ("GET", "/user/info"): LISTS,
    ("GET", "/v2/user/info"): LISTS,
    ("GET", "/user/list"): READS,
    ("GET", "/user/available_roles"): LISTS,
    ("POST", "/organization/new"): ADMIN,
    ("PATCH", "/organization/update"): ORGS,
    ("DELETE", "/organization/delete"): ADMIN,
    ("GET", "/organization/info"): "AVO",
    ("GET", "/organization/list"): "AVO",
    ("POST", "/organization/member_add"): ORGS,
    ("PATCH", "/organization/member_update"): ORGS,
    ("DELETE", "/organization/member_delete"): ORGS,
    **{
        (method, f"/{noun}/{verb}"): who
        for noun in ("customer", "end_user")
        for method, verb, who in (
            ("POST", "new", ADMIN),
            ("POST", "update", ADMIN),
            ("POST", "delete", ADMIN),
            ("POST", "block", ADMIN),
            ("POST", "unblock", ADMIN),
            ("GET", "info", READS),
            ("GET", "list", READS),
        )
    },
    # the budget plugin's
    ("POST", "/budget/new"): ADMIN,
    ("POST", "/budget/update"): ADMIN,
    ("POST", "/budget/delete"): ADMIN,
    ("POST", "/budget/reset"): ADMIN,
    ("POST", "/key/{key}/reset_spend"): ADMIN,
    ("POST", "/team/{team}/reset_spend"): ADMIN,
    ("POST", "/global/spend/reset"): ADMIN,
    ("POST", "/budget/info"): READS,
    ("GET", "/budget/list"): READS,
    ("GET", "/budget/settings"): READS,
    ("POST", "/spend/calculate"): ALL,
    ("POST", "/utils/token_counter"): ALL,
    ("GET", "/spend/tags"): READS,
    ("GET", "/tag/daily/activity"): READS,
    ("POST", "/global/spend/end_users"): READS,
    **{("GET", f"/spend/{what}"): ALL for what in ("logs", "logs/v2", "keys", "users", "teams")},
    **{("GET", f"/{noun}/daily/activity"): ALL for noun in ("key", "user", "team", "organization", "customer")},
    ("GET", "/global/spend"): READS,
    **{
        ("GET", f"/global/spend/{what}"): READS
        for what in ("logs", "report", "keys", "teams", "models", "provider", "tags", "all_tag_names")
    },
}
NOBODY = (
    "none",
    "unknown",
    "deleted",
    "expired",
    "blocked",
    "for inference only",
    "of a blocked team",
    "of a deleted user",
)


async def people(api, admin_key):
    """A credential for each letter, and those that open nothing."""
    await api.post("/organization/new", {"organization_id": "o", "organization_alias": "O"})
    await api.post("/organization/new", {"organization_id": "other", "organization_alias": "Other"})
    await api.post("/team/new", {"team_id": "t", "organization_id": "o"})
    await api.post("/team/new", {"team_id": "stopped", "blocked": True})
    roles = {
        "V": "proxy_admin_viewer",
        "O": "internal_user",
        "T": "internal_user",
        "U": "internal_user",
        "R": "internal_user_viewer",
    }
    keys = {"A": admin_key, "K": await api.key()}
    for letter, role in roles.items():
        keys[letter] = (await api.post("/user/new", {"user_id": letter, "user_role": role}))["key"]
    await api.post(
        "/organization/member_add", {"organization_id": "o", "member": {"role": "org_admin", "user_id": "O"}}
    )
    await api.post("/team/member_add", {"team_id": "t", "member": {"role": "admin", "user_id": "T"}})
    dead = {"none": None, "unknown": mint(), "deleted": await api.key(), "expired": await api.key(duration="1ms")}
    dead["blocked"] = await api.key(blocked=True, user_id="U")
    dead["for inference only"] = await api.key(key_type="llm_api", user_id="U")
    dead["of a blocked team"] = await api.key(team_id="stopped")
    dead["of a deleted user"] = (await api.post("/user/new", {"user_id": "gone"}))["key"]
    await api.post("/key/delete", {"keys": [dead["deleted"]]})
    await api.post("/user/delete", {"user_ids": ["gone"]})
    return keys, dead


def test_every_route_has_a_row_and_every_row_a_route(tmp_path):
    stack = f"gwcore: 1\nupstreams: {{d: {{provider: demo}}}}\nstack: [{{auth: {{admin_key: {secrets.token_hex(32)}}}}}, budget]\n"
    gateway = Gateway(stack)
    made = assemble(stack, gateway.catalog, gateway.resources, {})
    assert set(made.admin.routes) == set(MATRIX)


async def test_s3_every_route_by_every_credential(sqlite_api, admin_key):
    """On one store: what the policy says does not depend on it, and what keys of all states are worth is tested on both."""
    api, wrong = sqlite_api, []
    keys, dead = await people(api, admin_key)
    for (method, path), route in api.gateway.stack.admin.routes.items():
        address = path.replace("{key}", "nothing").replace("{team}", "nothing")
        for letter, key in keys.items():
            answer = await api.near(method, address, key=key, json={} if route.Body else None)
            denied = answer.status_code == 403 and "may not use" in answer.text
            if denied is (letter in MATRIX[method, path]) or answer.status_code in {401, 500, 503}:
                wrong.append((method, path, letter, answer.status_code, answer.text))
        for what, key in dead.items():
            answer = await api.near(method, address, key=key, json={})
            if answer.status_code != (403 if what == "for inference only" else 401):
                wrong.append((method, path, what, answer.status_code, answer.text))
    assert wrong == []
    assert set(dead) == set(NOBODY)


async def test_s3_the_matrix_can_fail(sqlite_api, admin_key, monkeypatch):
    """Negative control: with one row of the policy opened, the table above says so."""
    keys, _ = await people(sqlite_api, admin_key)
    monkeypatch.setattr(policy, "TABLE", {**policy.TABLE, "user:create": policy.TABLE["key:create"]})
    answer = await sqlite_api.raw("POST", "/user/new", key=keys["U"], json={"auto_create_key": False})
    assert answer.status_code == 200  # would be a wrong entry: U is not in MATRIX["POST", "/user/new"]
    assert "U" not in MATRIX["POST", "/user/new"]


async def test_s3_a_permission_nobody_knows_is_the_admins(sqlite_api, admin_key):
    async def endpoint(call):
        return {}

    route = AdminRoute("GET", "/new", "new:thing", endpoint, "")
    for role in ("viewer", "user", "reader", "key"):
        with pytest.raises(Forbidden):
            await sqlite_api.auth.permit(route, AdminCall(KnownCaller(role, "x")))
    await sqlite_api.auth.permit(route, AdminCall(KnownCaller("admin", "x")))


@pytest.mark.parametrize("carrier", ["x-api-key", "x-litellm-api-key", "api-key"])
async def test_the_admin_api_takes_every_carrier_and_refuses_two(sqlite_api, admin_key, carrier):
    assert (await sqlite_api.raw("GET", "/key/list", key=None, headers={carrier: admin_key})).status_code == 200
    assert (await sqlite_api.raw("GET", "/key/list", headers={carrier: mint()})).status_code == 400
    answer = await sqlite_api.raw("GET", f"/key/list?key={admin_key}", key=None)
    assert answer.status_code == 401  # never in an address, which logs keep


async def test_two_organisations_see_nothing_of_each_other(api, admin_key):
    """Every thing of one side, read and written by the other's strongest credential."""
    await api.post("/organization/new", {"organization_id": "o1", "organization_alias": "1"})
    await api.post("/organization/new", {"organization_id": "o2", "organization_alias": "2"})
    strong = {}
    for n in ("1", "2"):
        await api.post("/team/new", {"team_id": f"t{n}", "organization_id": f"o{n}"})
        strong[n] = (await api.post("/user/new", {"user_id": f"boss{n}"}))["key"]
        await api.post(
            "/organization/member_add",
            {"organization_id": f"o{n}", "member": {"role": "org_admin", "user_id": f"boss{n}"}},
        )
        await api.post("/team/member_add", {"team_id": f"t{n}", "member": {"role": "admin", "user_id": f"boss{n}"}})
    theirs = await api.post("/key/generate", {"team_id": "t2", "key_alias": "theirs"})
    attempts = [
        ("GET", f"/key/info?key={theirs['token']}", None), ("GET", "/team/info?team_id=t2", None), ("GET", "/user/info?user_id=boss2", None),
        ("GET", "/v2/user/info?user_id=boss2", None),
        ("GET", "/organization/info?organization_id=o2", None), ("POST", "/key/update", {"key": theirs["token"], "models": []}),
        ("POST", "/key/block", {"key": theirs["token"]}), ("POST", "/key/unblock", {"key": theirs["token"]}), ("POST", "/key/delete", {"keys": [theirs["token"]]}),
        ("POST", "/key/delete", {"key_aliases": ["theirs"]}), ("POST", "/key/regenerate", {"key": theirs["token"]}), ("POST", f"/key/{theirs['token']}/regenerate", {}),
        ("POST", "/key/generate", {"team_id": "t2"}), ("POST", "/key/generate", {"organization_id": "o2"}), ("POST", "/key/generate", {"user_id": "boss2"}),
        ("POST", "/team/update", {"team_id": "t2", "team_alias": "x"}), ("POST", "/team/delete", {"team_ids": ["t2"]}), ("POST", "/team/block", {"team_id": "t2"}),
        ("POST", "/team/new", {"organization_id": "o2"}), ("POST", "/team/new", {}), ("POST", "/team/member_add", {"team_id": "t2", "member": {"role": "admin", "user_id": "boss1"}}),
        ("POST", "/team/member_update", {"team_id": "t2", "user_id": "boss2", "role": "user"}), ("POST", "/team/member_delete", {"team_id": "t2", "user_id": "boss2"}),
        ("PATCH", "/organization/update", {"organization_id": "o2", "organization_alias": "x"}), ("POST", "/user/update", {"user_id": "boss2", "user_alias": "x"}),
        ("POST", "/organization/member_add", {"organization_id": "o2", "member": {"role": "org_admin", "user_id": "boss1"}}),
        ("DELETE", "/organization/member_delete", {"organization_id": "o2", "user_id": "boss2"}),
    ]  # fmt: skip
    for method, path, body in attempts:
        answer = await api.raw(method, path, key=strong["1"], json=body)
        assert answer.status_code == 403, (method, path, body, answer.status_code, answer.text)
    for path in ("/key/list", "/team/list", "/organization/list", "/key/aliases"):
        listed = str(await api.get(path, key=strong["1"]))
        assert "t2" not in listed and "o2" not in listed and theirs["token"] not in listed and "theirs" not in listed
    assert theirs["token"] in str(await api.get("/key/list", key=strong["2"]))  # the control: its own side sees it
    await _spend_is_apart(api, strong, theirs)


async def _spend_is_apart(api, strong, theirs):
    """The budget plugin's reports, which take what a caller may see from ``Caller.reach``."""
    assert (await api.chat(theirs["key"])).status_code == 200
    reports = ("/spend/keys", f"/spend/keys?key={theirs['token']}", "/spend/teams", "/spend/teams?team_id=t2", "/spend/logs?summarize=false",
               "/key/daily/activity", "/team/daily/activity?team_ids=t2")  # fmt: skip
    async with asyncio.timeout(20):
        while theirs["token"] not in (await api.raw("GET", "/spend/keys")).text:  # the ledger writes a little later
            await asyncio.sleep(0.1)
    for path in reports:
        told = await api.raw("GET", path, key=strong["1"])
        assert theirs["token"] not in told.text and '"t2"' not in told.text, (path, told.text)
        own = await api.raw("GET", path, key=strong["2"])
        assert theirs["token"] in own.text or '"t2"' in own.text, (path, own.text)  # the control


async def test_the_bounds_of_a_key_hold_in_the_admin_api_too(sqlite_api):
    await sqlite_api.post("/user/new", {"user_id": "u", "auto_create_key": False})

    async def asked(**bounds):
        made = await sqlite_api.key(user_id="u", **bounds)
        return (await sqlite_api.raw("GET", "/key/list", key=made)).status_code

    assert await asked(allowed_networks=["127.0.0.1"]) == 200
    assert await asked(allowed_networks=["10.0.0.1"]) == 403
    assert await asked(allowed_routes=["/v1/*"]) == 403
    blocked = await sqlite_api.key(user_id="u")
    await sqlite_api.post("/key/block", {"key": blocked})
    assert (await sqlite_api.raw("GET", "/key/list", key=blocked)).status_code == 401
    brief = await sqlite_api.key(user_id="u", duration="1s")
    await asyncio.sleep(1.1)
    assert (await sqlite_api.raw("GET", "/key/list", key=brief)).status_code == 401


async def test_who_is_made_again_leads_nothing(sqlite_api):
    await sqlite_api.post("/organization/new", {"organization_id": "o", "organization_alias": "O"})
    await sqlite_api.post("/team/new", {"team_id": "t"})

    async def leads():
        await sqlite_api.post("/user/new", {"user_id": "u", "auto_create_key": False})
        key = await sqlite_api.key(user_id="u")
        for path, body in (
            ("/team/new", {"organization_id": "o"}),
            ("/team/update", {"team_id": "t", "team_alias": "T"}),
        ):
            yield (await sqlite_api.raw("POST", path, key=key, json=body)).status_code

    assert [status async for status in leads()] == [403, 403]
    member = {"user_id": "u"}
    await sqlite_api.post(
        "/organization/member_add", {"organization_id": "o", "member": {**member, "role": "org_admin"}}
    )
    await sqlite_api.post("/team/member_add", {"team_id": "t", "member": {**member, "role": "admin"}})
    key = await sqlite_api.key(user_id="u")
    assert (await sqlite_api.raw("POST", "/team/new", key=key, json={"organization_id": "o"})).status_code == 200
    await sqlite_api.post("/user/delete", {"user_ids": ["u"]})
    assert [status async for status in leads()] == [403, 403]

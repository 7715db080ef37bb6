"""I3: each role by each writing address by each field of its body; nothing grants more than the caller holds.

Generated from the route table: every field gets a value that would raise somebody's rights. After each request the tables are
compared: whatever the answer was, nothing of others may have changed, and nothing of the caller's may have grown.
"""

import json

import pytest
from sqlalchemy import select

from gwcore.sql import reading
from gwcore_auth import policy
from gwcore_auth.tables import KEY, LEADER, MEMBER, ORGANISATION, SECRET, TEAM, USER

GRASP = {
    "models": ["*"], "max_budget": 1e6, "soft_budget": 1e6, "budget_duration": "1s", "budget_id": "b", "model_max_budget": {},
    "budget_limits": [], "temp_budget_increase": 1e6, "temp_budget_expiry": "2999-01-01", "rpm_limit": 10**9,
    "tpm_limit": 10**9, "tpd_limit": 10**9, "max_parallel_requests": 10**9, "model_rpm_limit": {}, "model_tpm_limit": {},
    "policies": {"budget": {"max_budget": None, "budget_duration": None}}, "duration": "9999d", "user_id": "victim",
    "team_id": "theirs", "organization_id": "org2", "metadata": {"x": 1}, "tags": ["vip"], "aliases": {"cheap": "n"},
    "model_aliases": {"cheap": "n"}, "allowed_routes": ["/*"], "allowed_networks": [], "key_type": "default", "blocked": False,
    "key": "VICTIM", "sha256": "c0ffee" + "0" * 58, "new_key": "sk-Qw3rTy7uIoPaZxCvBnM9kLjHgFdSa2XyZ", "grace_period": "9999d", "keys": ["VICTIM"],
    "key_aliases": ["victim"], "key_alias": "mine", "member": {"user_id": "ME", "role": "admin"}, "members_with_roles": [{"user_id": "ME", "role": "admin"}],
    "max_budget_in_team": 1e6, "allowed_models": ["*"], "role": "admin", "team_alias": "x", "team_ids": ["theirs", "ours"],
    "user_email": "victim@x.y", "user_alias": "x", "user_role": "proxy_admin", "teams": ["theirs"], "organizations": ["org2"],
    "auto_create_key": True, "user_ids": ["victim"], "organization_alias": "x", "organization_ids": ["org2"], "alias": "x",
    "budget_reset_at": "2999-01-01", "budgets": ["b"], "id": "b", "scope": "team", "reset_to": 0, "api_key": "VICTIM", "first": "2026-01-01",
    "last": "2026-01-01", "model": "m", "messages": [], "completion_response": {}, "allowed_model_region": "eu",
    "prompt": "x", "contents": [], "system": "x", "tools": [],
}  # fmt: skip
CLEAR = (
    "max_budget",
    "rpm_limit",
    "budget_duration",
    "duration",
    "models",
    "allowed_routes",
    "allowed_networks",
    "tags",
    "user_id",
    "team_id",
    "organization_id",
)
OWN = {"key": "OWN", "team_id": "ours", "user_id": "ME", "organization_id": "org1", "organization_alias": "x", "member": {"user_id": "friend"},
       "user_ids": ["ME"], "team_ids": ["ours"], "organization_ids": ["org1"], "id": "ours", "scope": "team", "budgets": ["b"]}  # fmt: skip
"""What a body must have, pointing at the caller's own."""

LIMITED = {"models": ["m"], "max_budget": 1, "budget_duration": "30d", "rpm_limit": 1, "duration": "1h", "allowed_networks": ["127.0.0.1"], "allowed_routes": ["/v1/*", "management_routes", "info_routes"], "tags": ["charged"]}  # fmt: skip


async def world(api):
    """Two organisations; of the first a leader, a team's leader and a member, each with a key and a limited key."""
    for n in ("1", "2"):
        await api.post(
            "/organization/new",
            {"organization_id": f"org{n}", "organization_alias": n, "max_budget": 100, "models": ["m", "n"]},
        )
    await api.post(
        "/team/new",
        {"team_id": "ours", "organization_id": "org1", "max_budget": 10, "models": ["m"], "tags": ["charged"]},
    )
    await api.post("/team/new", {"team_id": "theirs", "organization_id": "org2", "max_budget": 10})
    await api.post("/budget/new", {"budget_id": "b", "max_budget": 1e6})
    who = {}
    for name in ("user", "lead", "boss", "victim", "friend"):
        made = await api.post("/user/new", {"user_id": name, "user_email": f"{name}@x.y", "max_budget": 5})
        own = await api.post("/key/generate", {"user_id": name, **LIMITED})
        who[name] = {"name": name, "key": made["key"], "free": made["token"], "own": own["token"]}
    await api.post("/user/new", {"user_id": "root", "user_role": "proxy_admin"})
    for name, role in (("user", "user"), ("lead", "admin"), ("friend", "user")):
        await api.post(
            "/team/member_add", {"team_id": "ours", "member": {"user_id": name, "role": role}, "max_budget_in_team": 1}
        )
    await api.post(
        "/organization/member_add", {"organization_id": "org1", "member": {"user_id": "boss", "role": "org_admin"}}
    )
    mine = await api.post("/key/generate", {"user_id": "user", "models": ["m"], "key_alias": "restricted"})
    who["restricted"] = {"name": "user", "key": mine["key"], "free": mine["token"], "own": who["user"]["own"]}
    shared = await api.post(
        "/key/generate", {"team_id": "ours", "user_id": "friend", "models": ["m"], "max_budget": 1, "tags": ["charged"]}
    )
    for name in ("lead", "boss"):
        who[name]["led"] = shared["token"]
    await api.post("/team/update", {"team_id": "ours", "models": ["m"]})
    held = await api.post("/key/generate", {"user_id": "boss", "models": ["m"]})
    who["narrow boss"] = {"name": "boss", "key": held["key"], "free": held["token"], "own": who["boss"]["own"]}
    theirs = await api.post(
        "/key/generate", {"user_id": "victim", "key_alias": "victim", "models": ["m"], "blocked": True}
    )
    who["victim"]["target"] = theirs["token"]
    return who


async def snapshot(api):
    async with reading(api.auth.book.store) as sql:
        found = {}
        for table in (KEY, SECRET, TEAM, USER, ORGANISATION, MEMBER, LEADER):
            for row in (await sql.execute(select(table))).mappings():
                values = {k: v for k, v in row.items() if k not in {"updated_at", "updated_by"}}
                found[(table.name, *(row[c] for c in (column.name for column in table.primary_key)))] = values
        return found


def excess(before, after, role, name):
    """What a caller of that role must not have been able to do."""
    found = []
    for at in before.keys() | after.keys():
        old, new, table = before.get(at), after.get(at), at[0]
        if old != new and not _may(table, at, old, new, role, name):
            found.append((at, old, new))
    return found


def _may(table, at, old, new, role, name):
    row = new or old
    if old is not None and new is not None and not set(old.get("tags", ())) <= set(new.get("tags", ())):
        return False  # tags decide whose budgets are charged
    if role == "narrow boss":  # a boss, whose credential knows one model
        widened = new is not None and table in {"auth_key", "auth_team"} and (old or {}).get("models") != new["models"]
        if widened and not (new["models"] and set(new["models"]) <= {"m"}):
            return False
        role = "boss"
    if table == "auth_secret":
        owner = row["key_id"]
        return ("OWNED", owner) in _may.owned or old is None
    if table == "auth_key":
        return _may_key(old, new, role, name)
    changed = {k for k in row if (old or {}).get(k) != (new or {}).get(k)}
    if table == "auth_user":
        if old is None:  # a member or key's owner who was not known: without any right
            return role in {"lead", "boss"} and (row["role"], row["policies"], row["models"]) == ("user", {}, [])
        return new is not None and at[1] == name and changed <= {"alias", "metadata"}
    if table == "auth_team":
        ours = (old or new)["organisation_id"] == "org1"
        if role == "boss":
            return ours and (new is None or new["organisation_id"] == "org1")
        return role == "lead" and at[1] == "ours" and new is not None and changed <= {"alias", "metadata", "tags"}
    if table == "auth_member":
        return (role == "lead" and at[1] == "ours") or (
            role == "boss" and (at[1] == "ours" or (old is None and at[1] != "theirs"))
        )
    if table == "auth_organisation":
        return role == "boss" and at[1] == "org1" and new is not None and changed <= {"alias", "metadata"}
    return role == "boss" and at[1] == "org1"  # auth_organisation_member


def _may_key(old, new, role, name):
    """Own personal keys may lose rights or go; new ones hold no more than the credential."""
    row = new or old
    leads = (role == "boss" and "org1" in {row["organisation_id"]}) or (
        role in {"lead", "boss"} and row["team_id"] == "ours"
    )
    if old is None:
        if role == "restricted" and (not new["models"] or not set(new["models"]) <= {"m"}):
            return False
        return leads or (new["user_id"] == name and new["team_id"] is None and new["organisation_id"] is None)
    if old["team_id"] == "ours" and role in {"lead", "boss"}:
        if new is None or (new["team_id"] is None and new["user_id"] == name):  # as if it had made a key of its own
            return True
        return new["team_id"] == "ours" and new["user_id"] in {old["user_id"], name, "friend", "user", "lead"}
    if old["user_id"] != name:
        return False
    if new is None:
        return True
    if new["team_id"] not in {old["team_id"], "ours" if role in {"lead", "boss"} else old["team_id"]}:
        return False
    if new["user_id"] != name or new["organisation_id"] not in {
        old["organisation_id"],
        "org1" if role == "boss" else None,
    }:
        return False
    narrower = all(not old[c] or (new[c] and set(new[c]) <= set(old[c])) for c in ("models", "networks", "routes"))
    earlier = old["expires"] is None or (new["expires"] is not None and new["expires"] <= old["expires"])
    tighter = all(
        new["policies"].get(plugin, {}).get(k) == v
        or (isinstance(v, float | int) and (new["policies"].get(plugin, {}).get(k) or 1e12) <= v)
        for plugin, settings in old["policies"].items()
        for k, v in settings.items()
    )
    still = not old["blocked"] or new["blocked"]
    return narrower and earlier and tighter and still


def requests(api, me, victim):
    """(method, path, body, permission) for every field of every body, pointed at the caller's own and at others'."""

    def put(value):
        text = json.dumps(value)
        for word, meant in (("VICTIM", victim["target"]), ("OWN", me["own"]), ("ME", me["name"])):
            text = text.replace(f'"{word}"', f'"{meant}"')
        return json.loads(text)

    for (method, path), route in api.gateway.stack.admin.routes.items():
        if route.Body is None:
            continue
        fields = route.Body.model_fields
        must = {
            name: OWN[name]
            for name in OWN
            if name in fields
            # where an id may be left out, it says what is meant; in the body of a key it would be a change of its owner
            and (fields[name].is_required() or name == "key" or (name == "user_id" and not path.startswith("/key/")))
        }
        if path == "/key/generate":
            must = {}
        path = path.replace("{team}", "ours")  # noqa: PLW2901
        for address in (path.replace("{key}", me["own"]), path.replace("{key}", victim["target"])):
            for name in fields:
                assert name in GRASP, f"{name} is new: say what would raise somebody's rights"
                values = [
                    GRASP[name],
                    *([None] if name in CLEAR and name != "models" else []),
                    *([[]] if name in CLEAR else []),
                ]
                for value in values:
                    yield method, address, put({**must, name: value}), route.permission
            if address == path:
                break


async def attack(api, role, who, *, address=None):
    """Every request, and what they gained; of one ``address`` alone until the first that does."""
    me, gains, done = who[role], [], 0
    before = await snapshot(api)
    _may.owned = {
        ("OWNED", at[1]) for at, row in before.items() if at[0] == "auth_key" and row["user_id"] == me["name"]
    }
    wanted = list(requests(api, me, who["victim"]))
    if "led" in me:  # a key of the team, beside its own
        once = {str(one) for one in wanted}
        wanted += [one for one in requests(api, {**me, "own": me["led"]}, who["victim"]) if str(one) not in once]
    for method, path, body, permission in wanted:
        if address not in {None, path}:
            continue
        if any(part in path for part in ("delete", "unblock")) and (
            me["own"] in str(body) or me.get("led", "-") in str(body)
        ):
            continue  # what is gone tests nothing any more
        answer = await api.near(method, path, key=me["key"], json=body)
        assert answer.status_code < 500, (path, body, answer.text)
        done += 1
        if answer.status_code < 300:
            if policy.TABLE[permission] == {policy.ADMIN}:  # of which some write tables of others
                gains.append((method, path, body, "is the admin's alone"))
            after = await snapshot(api)
            _may.owned |= {
                ("OWNED", at[1])
                for at, row in after.items()
                if at[0] == "auth_key" and (row["user_id"] == me["name"] or row["team_id"] == "ours")
            }
            gains += [(method, path, body, gain) for gain in excess(before, after, role, me["name"])]
            before = after
        if address and gains:
            break
    return gains, done


@pytest.mark.timeout(180)
@pytest.mark.parametrize("role", ["user", "restricted", "lead", "boss", "narrow boss"])
async def test_i3_no_field_of_no_body_grants_more_than_the_caller_holds(sqlite_api, role):
    who = await world(sqlite_api)
    gains, done = await attack(sqlite_api, role, who)
    assert gains == []
    assert done > 200


@pytest.mark.parametrize(
    ("mutant", "role", "address"),
    [
        ("tightened", "user", "/key/update"),
        ("within_grant", "restricted", "/key/generate"),
        ("within_team", "narrow boss", "/team/update"),
        ("reach", "user", "/key/generate"),
        ("owns_key", "lead", "/key/update"),
        ("FIELDS", "lead", "/team/update"),
        ("keeps_tags", "user", "/key/update"),
        ("keeps_tags", "lead", "/key/update"),
    ],
)
async def test_i3_each_part_of_the_policy_is_needed(sqlite_api, monkeypatch, mutant, role, address):
    """Negative controls: without one part, the test above finds a gain, here at the address that shows it first."""
    monkeypatch.setattr(policy, mutant, {} if mutant == "FIELDS" else lambda *_: True)
    who = await world(sqlite_api)
    gains, _ = await attack(sqlite_api, role, who, address=address)
    assert gains != []

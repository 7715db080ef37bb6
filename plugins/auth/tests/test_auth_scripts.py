"""What scripts, forms and Terraform's provider for LiteLLM send, and what they would trip over."""

import pytest

from gwcore_auth.cli import add_member

BLANK = {
    "team_id": "", "user_id": "", "organization_id": "", "key_alias": "", "duration": "", "budget_duration": "", "budget_id": "",
    "metadata": {}, "aliases": {}, "config": {}, "permissions": {}, "model_max_budget": {}, "model_rpm_limit": {},
    "model_tpm_limit": {}, "guardrails": [], "blocked": False, "rpm_limit_type": "", "tpm_limit_type": "", "project_id": "",
}  # fmt: skip
"""A key as a form says nothing of it."""


async def test_an_empty_text_says_nothing(sqlite_api):
    api = sqlite_api
    made = await api.post("/key/generate", BLANK)
    named = ("user_id", "team_id", "organization_id", "key_alias", "expires", "budget_duration", "budget_id")
    assert [made[name] for name in named] == [None] * len(named)
    assert (await api.get("/user/list"))["total"] == 0, "nobody is called nothing"
    team = await api.post("/team/new", {"team_id": "t", "organization_id": "", "team_alias": "", "budget_duration": ""})
    assert (team["organization_id"], team["team_alias"]) == (None, None)


async def test_an_empty_text_changes_no_team_and_no_time_and_takes_names_away(sqlite_api):
    api = sqlite_api
    await api.post("/team/new", {"team_id": "t"})
    said = {"team_id": "t", "user_id": "u", "duration": "1h", "max_budget": 1, "budget_duration": "30d"}
    keys = [await api.post("/key/generate", {**said, "key_alias": alias}) for alias in ("one", "two")]
    for key in keys:  # two without an alias are no two of one alias
        row = await api.post("/key/update", {**BLANK, "key": key["token_id"]})
        assert (row["team_id"], row["budget_duration"], row["expires"]) == ("t", "30d", key["expires"])
        assert (row["user_id"], row["key_alias"]) == (None, None)


async def test_who_is_in_a_team_stays_as_he_is_when_he_is_added_again(sqlite_api):
    api = sqlite_api
    await api.post("/team/new", {"team_id": "t"})
    lead = {"team_id": "t", "member": {"role": "admin", "user_id": "u"}, "max_budget_in_team": 5}
    await api.post("/team/member_add", lead)
    again = {"team_id": "t", "member": {"role": "user", "user_id": "u"}}
    refused = await api.post("/team/member_add", again, status=400)
    assert refused["error"]["type"] == "team_member_already_in_team"
    both = {"team_id": "t", "member": [again["member"], {"role": "user", "user_id": "v"}]}
    added = await api.post("/team/member_add", both)
    assert [user["user_id"] for user in added["updated_users"]] == ["v"]
    member = next(m for m in (await api.get("/team/info?team_id=t"))["team_memberships"] if m["user_id"] == "u")
    assert member["role"] == "admin" and member["litellm_budget_table"] == {"max_budget": 5.0}


def test_the_command_line_says_what_a_member_is_from_now_on(monkeypatch):
    asked = []

    def ask(_url, _method, path, body=None, **_query):
        asked.append((path, body))
        return {"team_memberships": [{"user_id": "u"}]}

    monkeypatch.setattr("gwcore_auth.cli.ask", ask)
    add_member("t", "u", lead=True, url="x")
    add_member("t", "v", lead=False, url="x")
    assert [asked[1], asked[3]] == [
        ("/team/member_update", {"team_id": "t", "user_id": "u", "role": "admin"}),
        ("/team/member_add", {"team_id": "t", "member": {"user_id": "v", "role": "user"}}),
    ]


async def test_one_address_is_one_user(sqlite_api):
    api = sqlite_api
    await api.post("/user/new", {"user_email": "a@b.c"})
    assert "already exists" in (await api.post("/user/new", {"user_email": "a@b.c"}, status=409))["error"]["message"]
    assert (await api.get("/user/list"))["total"] == 1


async def test_aliases_are_counted_and_paged_without_keys_that_have_none(api):
    for alias in ("a", None, "b", None, "c", None):
        await api.post("/key/generate", {"key_alias": alias})
    page = await api.get("/key/aliases?size=2")
    assert (len(page["aliases"]), page["total_count"], page["total_pages"]) == (2, 3, 2)
    found = [*page["aliases"], *(await api.get("/key/aliases?size=2&page=2"))["aliases"]]
    assert sorted(found) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("status", "aliases"), [("active", ["on"]), ("expired", ["old"]), ("revoked", ["off"]), ("deleted", [])]
)
async def test_a_list_of_keys_of_one_status(api, status, aliases):
    """A script that deletes what is expired must not be given all."""
    for alias, said in {"on": {}, "old": {"duration": "1s"}, "off": {"blocked": True}}.items():
        await api.post("/key/generate", {"key_alias": alias, **said})
    await api.post("/key/update", {"key": (await _id(api, "old")), "duration": "0s"})
    listed = await api.get(f"/key/list?status={status}&return_full_object=true")
    assert [key["key_alias"] for key in listed["keys"]] == aliases and listed["total_count"] == len(aliases)
    assert "status must be active" in (await api.ask("GET", "/key/list?status=x", status=400))["error"]["message"]


async def _id(api, alias):
    return (await api.get(f"/key/list?key_alias={alias}"))["keys"][0]


async def test_a_list_of_users_by_their_ids(sqlite_api):
    api = sqlite_api
    for name in ("a", "b", "c"):
        await api.post("/user/new", {"user_id": name, "auto_create_key": False})
    listed = await api.get("/user/list?user_ids=a,c,nobody")
    assert sorted(user["user_id"] for user in listed["users"]) == ["a", "c"] and listed["total"] == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/user/update", {"user_id": "u", "key_alias": None, "duration": None}),
        ("/team/new", {"members_with_roles": None}),
        ("/organization/member_add", {"organization_id": "o", "member": {"role": "internal_user", "user_id": "u"}, "max_budget_in_organization": None}),
    ],
)  # fmt: skip
async def test_what_says_nothing_is_taken(sqlite_api, path, body):
    await sqlite_api.post("/user/new", {"user_id": "u"})
    await sqlite_api.post("/organization/new", {"organization_id": "o", "organization_alias": "O"})
    await sqlite_api.post(path, body)

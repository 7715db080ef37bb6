"""More keys and teams than stand on a page, or in a statement."""

from sqlalchemy import select

from gwcore_auth.tables import KEY, SECRET


async def test_the_teams_of_a_user_are_found_wherever_they_stand_in_the_list(api):
    await api.post("/team/new", {"team_id": "old", "members_with_roles": [{"role": "user", "user_id": "u"}]})
    for n in range(3):
        await api.post("/team/new", {"team_id": f"t{n}"})
    page = await api.get("/v2/team/list?user_id=u&page_size=2")
    assert [team["team_id"] for team in page["teams"]] == ["old"]
    assert (page["total"], page["total_pages"]) == (1, 1)
    assert [team["team_id"] for team in await api.get("/team/list?user_id=u")] == ["old"]
    assert await api.get("/team/list?user_id=nobody") == []


async def test_more_teams_than_a_list_holds_are_not_cut_off_in_silence(api, monkeypatch):
    monkeypatch.setattr("gwcore_auth.admin.teams._MOST_TEAMS", 2)
    for n in range(2):
        await api.post("/team/new", {"team_id": f"t{n}"})
    assert len(await api.get("/team/list")) == 2
    await api.post("/team/new", {"team_id": "t2"})
    refused = await api.raw("GET", "/team/list")
    assert refused.status_code == 400 and "there are 3 teams" in refused.text and "/v2/team/list" in refused.text


async def test_more_things_than_a_statement_takes_values(api, monkeypatch):
    monkeypatch.setattr("gwcore_auth.book.SLICE", 2)
    await api.post("/team/new", {"team_id": "t"})
    made = [await api.key(team_id="t", key_alias=f"k{n}") for n in range(5)]
    auth = api.auth
    ids = [row["id"] for row in await auth.book.all(select(KEY))]
    asked = []
    whole = auth.book.all

    async def seen(query):
        asked.append(query)
        return await whole(query)

    monkeypatch.setattr(auth.book, "all", seen)
    assert await auth.aliases("key", ids) == {row["id"]: row["alias"] for row in await whole(select(KEY))}
    assert [[column.name for column in query.selected_columns] for query in asked] == [["id", "alias"]] * 3
    assert await auth.policies("key", ids, "budget") == {}
    await api.post("/team/delete", {"team_ids": ["t"]})
    assert await whole(select(KEY)) == [] and await whole(select(SECRET)) == []
    assert [(await api.chat(key)).status_code for key in made] == [401] * 5


async def test_a_declared_team_hides_a_stored_one_of_its_id(serve, sqlite_url):
    async with serve(sqlite_url) as api:
        await api.post("/team/new", {"team_id": "t", "team_alias": "stored"})
        await api.post("/user/new", {"user_id": "ann", "teams": ["t"], "auto_create_key": False})
    async with serve(sqlite_url, auth="teams: {t: {alias: declared}}") as api:
        teams = (await api.get("/user/info?user_id=ann"))["teams"]
        assert [team["team_alias"] for team in teams] == ["declared"]

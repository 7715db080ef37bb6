"""``/team/*``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import delete, insert, update

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute, Caller
from gwcore_auth import policy
from gwcore_auth.admin import bodies
from gwcore_auth.admin.desk import Desk, NotFound, Spent, common, new_row, page_of, pages, shown, touched
from gwcore_auth.admin.keys import key_row
from gwcore_auth.book import Change, Filter, Row, clean
from gwcore_auth.tables import MEMBER

_MOST_KEYS = 10_000
_MOST_TEAMS = 10_000


def team_row(row: Row, members: Iterable[Row], spend: Spent) -> dict[str, Any]:
    """A team as LiteLLM shows it."""
    listed = list(members)
    return {
        **shown(row, spend),
        "team_id": row["id"],
        "team_alias": row["alias"],
        "organization_id": row["organisation_id"],
        "admins": [m["user_id"] for m in listed if m["role"] == "admin"],
        "members": [m["user_id"] for m in listed],
        "members_with_roles": [{name: m[name] for name in ("user_id", "user_email", "role")} for m in listed],
        "model_aliases": row["aliases"],
        "model_id": None,
        "litellm_model_table": None,
    }


def membership(row: Row) -> dict[str, Any]:
    """A team membership as LiteLLM shows it."""
    budget = row["policies"].get("budget")
    return {
        "user_id": row["user_id"],
        "team_id": row["team_id"],
        "role": row["role"],
        "spend": 0.0,
        "budget_id": None,
        "allowed_models": row["models"],
        "litellm_budget_table": {**budget, **row["policies"].get("ratelimit", {})} if budget else None,
    }


async def team_rows(desk: Desk, teams: list[Row]) -> list[dict[str, Any]]:
    """Teams with their members and spend."""
    members = await _by_team(desk, teams)
    spend = await desk.spent("team", teams)
    return [team_row(team, members[team["id"]], spend) for team in teams]


async def _by_team(desk: Desk, teams: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {team["id"]: [] for team in teams}
    for member in await desk.book.members_of("team_id", list(found)):
        found[member["team_id"]].append(member)
    return found


def scope_of(caller: Caller) -> Filter:
    """Which teams a caller may list."""
    if policy.reads_all(caller):
        return Filter()
    return Filter(among=(("id", caller.member_of | caller.teams), ("organisation_id", caller.organisations)))


class InTeam(BadRequest):
    """400: all of the given users are members of the team already."""

    code = "team_member_already_in_team"


class Teams:
    """Endpoints of teams."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.book = desk.book

    def routes(self) -> list[AdminRoute]:
        """Their addresses."""
        paged = ("page", "page_size", "team_id", "team_alias", "organization_id", "user_id")
        return [
            AdminRoute("POST", "/team/new", "team:create", self.new, "Make a team.", bodies.NewTeam),
            AdminRoute("POST", "/team/update", "team:update", self.update, "Change a team.", bodies.UpdateTeam),
            AdminRoute(
                "POST", "/team/delete", "team:delete", self.delete, "Remove teams and their keys.", bodies.Teams
            ),
            AdminRoute(
                "GET", "/team/info", "team:read", self.info, "One team, its keys and members.", query=("team_id",)
            ),
            AdminRoute("GET", "/team/list", "team:list", self.listing, "Teams.", query=("user_id", "organization_id")),
            AdminRoute("GET", "/team/available", "team:list", self.available, "Teams that anybody may join: none."),
            AdminRoute("GET", "/v2/team/list", "team:list", self.pages, "A page of teams.", query=paged),
            AdminRoute("POST", "/team/block", "team:block", self.block, "Block a team.", bodies.OneTeam),
            AdminRoute("POST", "/team/unblock", "team:unblock", self.unblock, "Unblock a team.", bodies.OneTeam),
            AdminRoute(
                "POST",
                "/team/model/add",
                "team:update",
                self.allow,
                "Add models to those that a team may use.",
                bodies.TeamModels,
            ),
            AdminRoute(
                "POST",
                "/team/model/delete",
                "team:update",
                self.disallow,
                "Remove models from those that a team may use.",
                bodies.TeamModels,
            ),
            AdminRoute("POST", "/team/member_add", "team:member", self.add, "Add members.", bodies.MemberAdd),
            AdminRoute(
                "POST", "/team/member_update", "team:member", self.change, "Change a member.", bodies.MemberUpdate
            ),
            AdminRoute(
                "POST", "/team/member_delete", "team:member", self.remove, "Remove a member.", bodies.MemberDelete
            ),
        ]

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────

    async def new(self, call: AdminCall) -> Any:
        """An id that exists is an error."""
        body, caller = call.body, call.caller
        id_ = clean("team", body.team_id or str(uuid.uuid4()))
        if await self.book.get("team", id_) is not None:
            raise BadRequest(f"Team id = {id_} already exists. Please use a different team id.")
        row = {**new_row(id_, caller.id), "organisation_id": body.organization_id, "aliases": body.model_aliases or {}}
        row = common(call, row, "team_alias")
        row["policies"] = await self.desk.policies(call, {})
        _sane(row)
        policy.within_team(caller, row, call.given | {"models"})
        if caller.role != "admin" and body.organization_id not in caller.organisations:
            policy.reach(False, "organization")
        async with self.book.change() as change:
            await self._organisation(row)
            await change.insert("team", row)
            for member in body.members_with_roles or []:
                await self._join(change, id_, member, by=caller.id)
        return team_row(row, await self.book.members(team_id=id_), self.desk.unspent)

    async def update(self, call: AdminCall) -> Any:
        """Fields that are absent stay."""
        body = call.body
        async with self.book.change() as change:
            before = await self._led(call, body.team_id)
            row = common(call, {**before, **touched(call)}, "team_alias")
            if "organization_id" in call.given:
                row["organisation_id"] = body.organization_id
            if "model_aliases" in call.given:
                row["aliases"] = body.model_aliases or {}
            row["policies"] = await self.desk.policies(call, before["policies"])
            _sane(row)
            policy.within_team(call.caller, row, call.given)
            policy.keeps_tags(call.caller, before, row)
            await self._organisation(row)
            await change.update("team", [row["id"]], {k: v for k, v in row.items() if k != "id"})
        return {"team_id": row["id"], "data": await self._shown(row)}

    async def delete(self, call: AdminCall) -> Any:
        """All or none; also deletes the teams' keys."""
        ids = call.body.team_ids
        self.book.own("team", ids)
        async with self.book.change() as change:
            for id_ in ids:
                await self._led(call, id_)
            keys = await change.keys_of("team", ids)
            if keys:
                await change.delete("key", keys)
            await change.delete("team", ids)
        return {"deleted_teams": ids}

    async def info(self, call: AdminCall) -> Any:
        """With keys and memberships."""
        id_ = call.query.get("team_id")
        if not id_:
            raise BadRequest("name a team: ?team_id=")
        row = await self._team(id_)
        policy.reach(policy.reads_team(call.caller, row), "team")
        (found,) = await self._whole(call.caller, [row])
        keys, memberships = found.pop("keys"), found.pop("team_memberships")
        return {"team_id": id_, "team_info": found, "keys": keys, "team_memberships": memberships}

    async def listing(self, call: AdminCall) -> Any:
        """All teams that the caller may see, with memberships and up to 10,000 keys in all; ``/key/list`` has every key.

        Raises ``BadRequest`` for more than 10,000 teams: a truncated list would be taken for a complete one.
        """
        rows, total = await self._found(call, 1, _MOST_TEAMS)
        if total > len(rows):
            raise BadRequest(
                f"there are {total} teams, and this address answers with {len(rows)} at most: ask /v2/team/list"
            )
        return await self._whole(call.caller, rows)

    async def available(self, _call: AdminCall) -> Any:
        """Always empty, since only leaders add members; exists because LiteLLM's clients call it."""
        return []

    async def pages(self, call: AdminCall) -> Any:
        """A page of the teams that the caller may see, without their keys."""
        page, size = page_of(call, "page_size")
        rows, total = await self._found(call, page, size)
        return {
            "teams": await team_rows(self.desk, rows),
            "total": total,
            "page": page,
            "page_size": size,
            "total_pages": pages(total, size),
        }

    async def block(self, call: AdminCall) -> Any:
        """Every key of the team is refused within a second."""
        return await self._set_blocked(call, blocked=True)

    async def unblock(self, call: AdminCall) -> Any:
        """Undo a block."""
        return await self._set_blocked(call, blocked=False)

    async def allow(self, call: AdminCall) -> Any:
        """Add to the list; an empty list, which allows all, becomes one that allows only these."""
        return await self._set_models(call, lambda before, named: [*before, *(n for n in named if n not in before)])

    async def disallow(self, call: AdminCall) -> Any:
        """Remove from the list. Removing the last one is rejected: an empty list would allow all."""
        return await self._set_models(call, lambda before, named: [one for one in before if one not in named])

    async def add(self, call: AdminCall) -> Any:
        """Creates unknown users; leaves existing members unchanged."""
        body = call.body
        members = body.member if isinstance(body.member, list) else [body.member]
        budget = {"max_budget": body.max_budget_in_team, "budget_duration": body.budget_duration}
        changes = [("budget", name, value) for name, value in budget.items() if value is not None]
        policies = await self.desk.checked({}, changes)
        async with self.book.change() as change:
            row = await self._led(call, body.team_id)
            tried = [
                await self._join(
                    change, row["id"], one, by=call.caller.id, policies=policies, models=body.allowed_models
                )
                for one in members
            ]
            joined = [id_ for id_ in tried if id_ is not None]
            if members and not joined:
                raise InTeam("User already in team; /team/member_update changes a member")
        memberships = [m for m in await self.book.members(team_id=row["id"]) if m["user_id"] in joined]
        users = [{"user_id": id_, "teams": [row["id"]]} for id_ in joined]
        updated = [membership(member) for member in memberships]
        return {**await self._shown(row), "updated_users": users, "updated_team_memberships": updated}

    async def change(self, call: AdminCall) -> Any:
        """Fields that are absent stay."""
        body = call.body
        fields = (
            ("budget", "max_budget", "max_budget_in_team"),
            ("budget", "budget_duration", "budget_duration"),
            ("ratelimit", "rpm_limit", "rpm_limit"),
            ("ratelimit", "tpm_limit", "tpm_limit"),
        )
        changes = [(plugin, name, getattr(body, field)) for plugin, name, field in fields if field in call.given]
        async with self.book.change() as change:
            await self._led(call, body.team_id)
            member = await self._member(body)
            member["policies"] = await self.desk.checked({p: dict(s) for p, s in member["policies"].items()}, changes)
            if "allowed_models" in call.given:
                member["models"] = body.allowed_models or []
            if body.role is not None:
                member["role"] = body.role
            values = {name: member[name] for name in ("role", "models", "policies")}
            await change.sql.execute(update(MEMBER).where(_is(member)).values(**values))
            change.of("member", [f"{member['team_id']}/{member['user_id']}"])
        return membership(member)

    async def remove(self, call: AdminCall) -> Any:
        """Also deletes the member's keys in the team."""
        async with self.book.change() as change:
            row = await self._led(call, call.body.team_id)
            member = await self._member(call.body)
            theirs = Filter({"team_id": row["id"], "user_id": member["user_id"]})
            keys, _ = await self.book.listed("key", theirs, page=1, size=10_000)
            ids = [key["id"] for key in keys if ("key", key["id"]) not in self.book.declared]
            if ids:
                await change.delete("key", ids)
            await change.sql.execute(delete(MEMBER).where(_is(member)))
            change.of("member", [f"{row['id']}/{member['user_id']}"])
        return await self._shown(row)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _team(self, id_: str) -> Row:
        return await self.desk.need("team", id_, f"Team not found, passed team id: {id_}.")

    async def _led(self, call: AdminCall, id_: str) -> Row:
        row = await self._team(id_)
        policy.reach(policy.leads_team(call.caller, row), "team")
        self.book.own("team", [id_])
        return row

    async def _shown(self, row: Row) -> dict[str, Any]:
        return (await team_rows(self.desk, [row]))[0]

    async def _whole(self, caller: Caller, teams: list[Row]) -> list[dict[str, Any]]:
        """Teams with their memberships, and those of their keys that the caller may see."""
        members, keys = await _by_team(self.desk, teams), Filter(among=(("team_id", {team["id"] for team in teams}),))
        own: dict[str, list[Row]] = {team["id"]: [] for team in teams}
        by_id = {team["id"]: team for team in teams}
        for key in (await self.book.listed("key", keys, page=1, size=_MOST_KEYS))[0]:
            if policy.reads_key(caller, key, by_id[key["team_id"]]):
                own[key["team_id"]].append(key)
        spend = await self.desk.spent("key", [key for listed in own.values() for key in listed])
        found = []
        for team in await team_rows(self.desk, teams):
            await asyncio.sleep(0)  # let calls run meanwhile: thousands of keys take a while to show
            id_ = team["team_id"]
            rows, places = [key_row(key, spend) for key in own[id_]], [membership(one) for one in members[id_]]
            found.append({**team, "team_memberships": places, "keys": rows})
        return found

    async def _found(self, call: AdminCall, page: int, size: int) -> tuple[list[Row], int]:
        query = call.query
        names = {"team_id": "id", "team_alias": "alias", "organization_id": "organisation_id"}
        equal = {column: query[name] for name, column in names.items() if query.get(name)}
        theirs = None
        if wanted := query.get("user_id"):
            theirs = {member["team_id"] for member in await self.book.members(user_id=wanted)}
        only = Filter(equal, scope_of(call.caller).among, ids=theirs)
        return await self.book.listed("team", only, page=page, size=size)

    async def _organisation(self, row: Row) -> None:
        id_ = row["organisation_id"]
        if id_ is not None:
            await self.desk.need("organisation", id_, f"Organization not found, passed id: {id_}.")

    async def _member(self, body: Any) -> Row:
        user = body.user_id
        if user is None and body.user_email:
            known = await self.desk.by_email(body.user_email)
            user = known["id"] if known else None
        found = await self.book.member(body.team_id, user) if user else None
        if found is None:
            raise NotFound("this user is not in the team")
        return found

    async def _join(
        self, change: Change, team: str, member: Any, *, by: str, policies: Any = None, models: list[str] | None = None
    ) -> str | None:
        """Add a member; returns the user's id, or ``None`` if it is a member already."""
        if member.role not in {"admin", "user"}:
            raise BadRequest("role in a team is admin or user")
        user = await self.desk.person(change, member.user_id, member.user_email, by)
        values = {"role": member.role, "models": models or [], "policies": policies or {}}
        if await self.book.member(team, user) is not None:
            return None
        await change.sql.execute(insert(MEMBER).values(team_id=team, user_id=user, **values))
        change.of("member", [f"{team}/{user}"])
        return user

    async def _set_models(self, call: AdminCall, made: Callable[[list[str], list[str]], list[str]]) -> Any:
        async with self.book.change() as change:
            row = {**await self._led(call, call.body.team_id), **touched(call)}
            row["models"] = made(row["models"], call.body.models)
            if not row["models"]:
                raise BadRequest(
                    "models: a team with an empty list may use all models; block the team, or add another model first"
                )
            policy.within_team(call.caller, row, call.given)
            values = {name: row[name] for name in ("models", "updated_at", "updated_by")}
            await change.update("team", [row["id"]], values)
        return await self._shown(row)

    async def _set_blocked(self, call: AdminCall, *, blocked: bool) -> Any:
        async with self.book.change() as change:
            row = {**await self._led(call, call.body.team_id), "blocked": blocked, **touched(call)}
            values = {name: row[name] for name in ("blocked", "updated_at", "updated_by")}
            await change.update("team", [row["id"]], values)
        return await self._shown(row)


def _is(member: Row) -> Any:
    return (MEMBER.c.team_id == member["team_id"]) & (MEMBER.c.user_id == member["user_id"])


def _sane(row: Row) -> None:
    budget = row["policies"].get("budget", {})
    soft, most = budget.get("soft_budget"), budget.get("max_budget")
    if soft is not None and most is not None and soft >= most:
        raise BadRequest("soft_budget must be lower than max_budget")

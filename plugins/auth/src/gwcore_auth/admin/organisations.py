"""``/organization/*``."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import delete, insert, select, update

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute
from gwcore_auth import policy
from gwcore_auth.admin import bodies
from gwcore_auth.admin.desk import Desk, NotFound, Spent, budget_table, common, new_row, shown, touched
from gwcore_auth.admin.teams import team_rows
from gwcore_auth.book import Conflict, Filter, Row, clean
from gwcore_auth.tables import LEADER, TEAM

_ROLES = {"org_admin", "internal_user", "internal_user_viewer"}


def organisation_row(row: Row, spend: Spent) -> dict[str, Any]:
    """An organisation as LiteLLM shows it."""
    return {
        **shown(row, spend),
        "organization_id": row["id"],
        "organization_alias": row["alias"],
        "budget_id": row["policies"].get("budget", {}).get("budget_id"),
        "litellm_budget_table": budget_table(row),
        "users": None,
    }


def _member(row: Row) -> dict[str, Any]:
    return {
        "user_id": row["user_id"],
        "organization_id": row["organisation_id"],
        "user_role": row["role"],
        "spend": 0.0,
    }


class Organisations:
    """Endpoints of organisations."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.book = desk.book

    def routes(self) -> list[AdminRoute]:
        """Their addresses."""
        one = ("organization_id",)
        return [
            AdminRoute("POST", "/organization/new", "organisation:create", self.new, "Create an organisation.", bodies.NewOrganisation),
            AdminRoute("PATCH", "/organization/update", "organisation:update", self.update, "Change an organisation.", bodies.UpdateOrganisation),
            AdminRoute("DELETE", "/organization/delete", "organisation:delete", self.delete, "Delete organisations, their teams and keys.", bodies.OrganisationIds),
            AdminRoute("GET", "/organization/info", "organisation:read", self.info, "One organisation.", query=one),
            AdminRoute("GET", "/organization/list", "organisation:list", self.listing, "The organisations that the caller may see."),
            AdminRoute("POST", "/organization/member_add", "organisation:member", self.add, "Add members.", bodies.OrganisationMembers),
            AdminRoute("PATCH", "/organization/member_update", "organisation:member", self.change, "Change a member.", bodies.OrganisationMember),
            AdminRoute("DELETE", "/organization/member_delete", "organisation:member", self.remove, "Remove a member.", bodies.OrganisationMember),
        ]  # fmt: skip

    async def new(self, call: AdminCall) -> Any:
        """An id that exists is an error."""
        id_ = clean("organization", call.body.organization_id or str(uuid.uuid4()))
        if await self.book.get("organisation", id_) is not None:
            raise Conflict(f"Organization id = {id_} already exists.")
        row = common(call, new_row(id_, call.caller.id), "organization_alias")
        row["policies"] = await self.desk.policies(call, {})
        async with self.book.change() as change:
            await change.insert("organisation", row)
        return organisation_row(row, self.desk.unspent)

    async def update(self, call: AdminCall) -> Any:
        """Fields that are absent stay."""
        async with self.book.change() as change:
            before = await self._led(call, call.body.organization_id)
            row = common(call, {**before, **touched(call)}, "organization_alias")
            row["policies"] = await self.desk.policies(call, before["policies"])
            await change.update("organisation", [row["id"]], {k: v for k, v in row.items() if k != "id"})
        return await self._shown(row)

    async def delete(self, call: AdminCall) -> Any:
        """All or none; also deletes their teams and the keys of both."""
        ids = call.body.organization_ids
        self.book.own("organisation", ids)
        async with self.book.change() as change:
            rows = [await self._one(id_) for id_ in ids]
            found = await change.sql.execute(select(TEAM.c.id).where(TEAM.c.organisation_id.in_(ids)))
            teams = list(found.scalars())
            keys = {*await change.keys_of("organisation", ids), *await change.keys_of("team", teams)}
            if keys:
                await change.delete("key", sorted(keys))
            if teams:
                await change.delete("team", teams)
            await change.delete("organisation", ids)
        return [organisation_row(row, self.desk.unspent) for row in rows]

    async def info(self, call: AdminCall) -> Any:
        """With teams and members."""
        id_ = call.query.get("organization_id")
        if not id_:
            raise BadRequest("name an organization: ?organization_id=")
        row = await self._one(id_)
        policy.reach(policy.reads_all(call.caller) or id_ in call.caller.organisations, "organization")
        teams, _ = await self.book.listed("team", Filter({"organisation_id": id_}), page=1, size=1000)
        members = await self.book.leaders(organisation_id=id_)
        listed = await team_rows(self.desk, teams)
        return {**await self._shown(row), "teams": listed, "members": [_member(member) for member in members]}

    async def listing(self, call: AdminCall) -> Any:
        """Those that the caller may see, at most 1000."""
        among = None if policy.reads_all(call.caller) else [("id", call.caller.organisations)]
        rows, _ = await self.book.listed("organisation", Filter(among=among), page=1, size=1000)
        spend = await self.desk.spent("organisation", rows)
        return [organisation_row(row, spend) for row in rows]

    async def add(self, call: AdminCall) -> Any:
        """Creates unknown users."""
        members = call.body.member if isinstance(call.body.member, list) else [call.body.member]
        async with self.book.change() as change:
            row = await self._led(call, call.body.organization_id)
            known = {m["user_id"] for m in await self.book.leaders(organisation_id=row["id"])}
            for member in members:
                role = _role("internal_user" if member.role == "user" else member.role)
                user = await self.desk.person(change, member.user_id, member.user_email, call.caller.id)
                if user in known:
                    raise Conflict(f"user {user} is in the organization already")
                await change.sql.execute(insert(LEADER).values(organisation_id=row["id"], user_id=user, role=role))
        added = await self.book.leaders(organisation_id=row["id"])
        return {
            "organization_id": row["id"],
            "updated_users": [],
            "updated_organization_memberships": [_member(m) for m in added],
        }

    async def change(self, call: AdminCall) -> Any:
        """Change a member's role."""
        role = _role(call.body.role)
        async with self.book.change() as change:
            member = {**await self._place(call), "role": role}
            await change.sql.execute(update(LEADER).where(_is(member)).values(role=member["role"]))
        return _member(member)

    async def remove(self, call: AdminCall) -> Any:
        """Only from the organisation; memberships of its teams remain."""
        async with self.book.change() as change:
            member = await self._place(call)
            await change.sql.execute(delete(LEADER).where(_is(member)))
        return _member(member)

    async def _one(self, id_: str) -> Row:
        return await self.desk.need("organisation", id_, f"Organization not found, passed id: {id_}.")

    async def _led(self, call: AdminCall, id_: str) -> Row:
        row = await self._one(id_)
        policy.reach(call.caller.role == "admin" or id_ in call.caller.organisations, "organization")
        self.book.own("organisation", [id_])
        return row

    async def _place(self, call: AdminCall) -> Row:
        body = call.body
        await self._led(call, body.organization_id)
        user = body.user_id
        if user is None and body.user_email:
            known = await self.desk.by_email(body.user_email)
            user = known["id"] if known else None
        for member in await self.book.leaders(organisation_id=body.organization_id):
            if member["user_id"] == user:
                return member
        raise NotFound("this user is not in the organization")

    async def _shown(self, row: Row) -> dict[str, Any]:
        return organisation_row(row, await self.desk.spent("organisation", [row]))


def _is(member: Row) -> Any:
    return (LEADER.c.organisation_id == member["organisation_id"]) & (LEADER.c.user_id == member["user_id"])


def _role(role: str | None) -> str:
    if role not in _ROLES:
        raise BadRequest(f"role in an organization is one of: {', '.join(sorted(_ROLES))}")
    return role

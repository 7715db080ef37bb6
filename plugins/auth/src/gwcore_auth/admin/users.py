"""``/user/*``."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import insert

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute
from gwcore_auth import policy
from gwcore_auth.admin import bodies
from gwcore_auth.admin.desk import Desk, Spent, common, new_row, page_of, pages, shown, touched
from gwcore_auth.admin.keys import Keys, key_row
from gwcore_auth.admin.teams import team_rows
from gwcore_auth.book import Conflict, Filter, Row, clean
from gwcore_auth.keys import mint
from gwcore_auth.tables import LEADER, MEMBER

ROLES = {
    "proxy_admin": "admin",
    "proxy_admin_viewer": "viewer",
    "internal_user": "user",
    "internal_user_viewer": "reader",
}
"""LiteLLM's names of roles → ours."""
_THEIRS = {ours: theirs for theirs, ours in ROLES.items()}


def user_row(row: Row, teams: list[str], spend: Spent) -> dict[str, Any]:
    """A user as LiteLLM shows it."""
    return {
        **shown(row, spend),
        "user_id": row["id"],
        "user_alias": row["alias"],
        "user_email": row["email"],
        "user_role": _THEIRS.get(row["role"], row["role"]),
        "teams": teams,
        "team_id": None,
        "organization_id": None,
        "organization_memberships": None,
        "sso_user_id": None,
    }


class Users:
    """Endpoints of users."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.book = desk.book
        self.keys = Keys(desk)

    def routes(self) -> list[AdminRoute]:
        """Their addresses."""
        listed = ("page", "page_size", "user_email", "user_ids", "role", "search")
        return [
            AdminRoute("POST", "/user/new", "user:create", self.new, "Make a user, and a key.", bodies.NewUser),
            AdminRoute("POST", "/user/update", "user:update", self.update, "Change a user.", bodies.UpdateUser),
            AdminRoute(
                "POST", "/user/delete", "user:delete", self.delete, "Remove users and their keys.", bodies.Users
            ),
            AdminRoute(
                "GET", "/user/info", "user:read", self.info, "One user; the caller by default.", query=("user_id",)
            ),
            AdminRoute(
                "GET",
                "/v2/user/info",
                "user:read",
                self.alone,
                "One user, with the ids of its teams.",
                query=("user_id",),
            ),
            AdminRoute("GET", "/user/list", "user:list", self.listing, "A page of users.", query=listed),
            AdminRoute("GET", "/user/available_roles", "user:read", self.roles, "The roles that users may have."),
        ]

    async def new(self, call: AdminCall) -> Any:
        """Also creates a key, unless ``auto_create_key`` is false."""
        body, by = call.body, call.caller.id
        id_ = clean("user", body.user_id or str(uuid.uuid4()))
        if await self.book.get("user", id_) is not None:
            raise Conflict(f"User with id {id_} already exists")
        row = common(call, {**new_row(id_, by), "email": body.user_email}, "user_alias")
        row["role"] = ROLES[body.user_role or "internal_user"]
        row["policies"] = await self.desk.policies(call, {})
        teams = [_team_id(team) for team in body.teams or []]
        for team in teams:
            await self.desk.need("team", team, f"Team not found, passed team id: {team}.")
        for organisation in body.organizations or []:
            await self.desk.need("organisation", organisation, f"Organization not found, passed id: {organisation}.")
        answer: dict[str, Any] = {"key": None}
        async with self.book.change() as change:
            if body.user_email and await self.desk.by_email(body.user_email) is not None:
                raise Conflict(f"User with email {body.user_email} already exists")
            await change.insert("user", row)
            for team in teams:
                values = {"team_id": team, "user_id": id_, "role": "user", "models": [], "policies": {}}
                await change.sql.execute(insert(MEMBER).values(**values))
                change.of("member", [f"{team}/{id_}"])
            for organisation in body.organizations or []:
                place = {"organisation_id": organisation, "user_id": id_, "role": "internal_user"}
                await change.sql.execute(insert(LEADER).values(**place))
            if body.auto_create_key:
                wanted = bodies.NewKey(user_id=id_, key_alias=body.key_alias, duration=body.duration)
                made = AdminCall(call.caller, body=wanted, given=frozenset({"user_id", "key_alias", "duration"}))
                text = mint()
                answer = {**key_row(await self.keys.create(change, made, text), self.desk.unspent), "key": text}
        return {**answer, **user_row(row, teams, self.desk.unspent)}

    async def update(self, call: AdminCall) -> Any:
        """Fields that are absent stay."""
        body = call.body
        async with self.book.change() as change:
            before = await self._user(body)
            policy.reach(call.caller.role == "admin" or before["id"] == call.caller.user, "user")
            self.book.own("user", [before["id"]])
            row = common(call, {**before, **touched(call)}, "user_alias")
            if "user_email" in call.given:
                row["email"] = body.user_email
            if body.user_role is not None:
                row["role"] = ROLES[body.user_role]
            row["policies"] = await self.desk.policies(call, before["policies"])
            await change.update("user", [row["id"]], {k: v for k, v in row.items() if k != "id"})
        return {"user_id": row["id"], "data": await self._shown(row)}

    async def delete(self, call: AdminCall) -> Any:
        """All or none; also deletes their keys."""
        ids = call.body.user_ids
        self.book.own("user", ids)
        async with self.book.change() as change:
            for id_ in ids:
                await self.desk.need("user", id_, f"User not found, passed user_id: {id_}.")
            keys = await change.keys_of("user", ids)
            if keys:
                await change.delete("key", keys)
            await change.delete("user", ids)
        return {"deleted_users": ids, "deleted": len(ids)}

    async def alone(self, call: AdminCall) -> Any:
        """Without keys, and with only the ids of teams."""
        return await self._shown(await self._asked(call))

    async def info(self, call: AdminCall) -> Any:
        """With keys and teams."""
        row = await self._asked(call)
        id_ = row["id"]
        keys, _ = await self.book.listed("key", Filter({"user_id": id_}), page=1, size=1000)
        spend = await self.desk.spent("key", keys)
        teams = await self.book.some("team", [m["team_id"] for m in await self.book.members(user_id=id_)])
        return {
            "user_id": id_,
            "user_info": await self._shown(row),
            "keys": [key_row(key, spend) for key in keys],
            "teams": await team_rows(self.desk, teams),
        }

    async def listing(self, call: AdminCall) -> Any:
        """Newest first."""
        page, size = page_of(call, "page_size", default=25)
        query = call.query
        equal = {"email": query["user_email"]} if query.get("user_email") else {}
        if query.get("role"):
            equal["role"] = ROLES.get(query["role"], query["role"])
        ids = query.get("user_ids")
        among = (("id", ids.split(",")),) if ids else None
        rows, total = await self.book.listed(
            "user", Filter(equal, among, text=query.get("search")), page=page, size=size
        )
        spend = await self.desk.spent("user", rows)
        teams: dict[str, list[str]] = {row["id"]: [] for row in rows}
        for member in await self.book.members_of("user_id", list(teams)):
            teams[member["user_id"]].append(member["team_id"])
        users = [user_row(row, teams[row["id"]], spend) for row in rows]
        return {"users": users, "total": total, "page": page, "page_size": size, "total_pages": pages(total, size)}

    async def roles(self, _call: AdminCall) -> Any:
        """LiteLLM's names."""
        return {
            "proxy_admin": {"description": "everything", "ui_label": "Admin"},
            "proxy_admin_viewer": {"description": "reads everything", "ui_label": "Admin (view only)"},
            "internal_user": {"description": "makes and sees its own keys", "ui_label": "User"},
            "internal_user_viewer": {"description": "sees its own keys", "ui_label": "User (view only)"},
        }

    async def _asked(self, call: AdminCall) -> Row:
        id_ = call.query.get("user_id") or call.caller.user
        if id_ is None:
            raise BadRequest("name a user: ?user_id=")
        policy.reach(policy.reads_all(call.caller) or id_ == call.caller.user, "user")
        return await self.desk.need("user", id_, f"User {id_} not found")

    async def _user(self, body: Any) -> Row:
        if body.user_id is not None:
            return await self.desk.need("user", body.user_id, f"User {body.user_id} not found")
        if body.user_email:
            found = await self.desk.by_email(body.user_email)
            if found is not None:
                return found
        raise BadRequest("name a user: user_id, or the user_email of one")

    async def _shown(self, row: Row) -> dict[str, Any]:
        teams = [m["team_id"] for m in await self.book.members(user_id=row["id"])]
        return user_row(row, teams, await self.desk.spent("user", [row]))


def _team_id(team: Any) -> str:
    found = team.get("team_id") if isinstance(team, dict) else team
    if not isinstance(found, str):
        raise BadRequest("teams holds ids of teams")
    return found

"""``/key/*``."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import insert, or_, update
from sqlalchemy.exc import IntegrityError

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute, Caller
from gwcore_auth import policy
from gwcore_auth.admin import bodies
from gwcore_auth.admin.desk import Desk, NotFound, Spent, common, expiry, iso, new_row, page_of, pages, shown, touched
from gwcore_auth.book import Change, Conflict, Filter, Row, status_of
from gwcore_auth.config import KeySecret
from gwcore_auth.keys import Presented, hint, mint, presented
from gwcore_auth.tables import SECRET

_STATUSES = {None, "active", "expired", "revoked", "deleted"}
_CHOSEN = TypeAdapter[Any](KeySecret)
_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("user_id", "user_id", None),
    ("team_id", "team_id", None),
    ("organization_id", "organisation_id", None),
    ("aliases", "aliases", {}),
    ("allowed_routes", "routes", []),
    ("allowed_networks", "networks", []),
    ("key_type", "kind", "default"),
)

_SCOPES = {"key": "id", "user": "user_id", "team": "team_id", "organisation": "organisation_id"}


def key_row(row: Row, spend: Spent) -> dict[str, Any]:
    """A key as LiteLLM shows it, without its secret."""
    return {
        **shown(row, spend),
        "token": row["id"],
        "key_name": row["hint"],
        "key_alias": row["alias"],
        "expires": iso(row["expires"]),
        "user_id": row["user_id"],
        "team_id": row["team_id"],
        "org_id": row["organisation_id"],
        "organization_id": row["organisation_id"],
        "aliases": row["aliases"],
        "allowed_routes": row["routes"],
        "allowed_networks": row["networks"],
        "key_type": row["kind"],
        "config": {},
        "permissions": {},
        "allowed_cache_controls": [],
        "soft_budget_cooldown": False,
    }


def scope_of(caller: Caller) -> Filter:
    """Which keys a caller may list."""
    reach = caller.reach
    if reach is None:
        return Filter()
    return Filter(among=tuple((_SCOPES[scope], ids) for scope, ids in reach.items()))


class Keys:
    """Endpoints of keys."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.book = desk.book

    def routes(self) -> list[AdminRoute]:
        """Their addresses."""
        return [
            AdminRoute("POST", "/key/generate", "key:create", self.generate, "Make a key.", bodies.NewKey),
            AdminRoute("POST", "/key/update", "key:update", self.update, "Change a key.", bodies.UpdateKey),
            AdminRoute("POST", "/key/delete", "key:delete", self.delete, "Remove keys.", bodies.DeleteKeys),
            AdminRoute("POST", "/key/block", "key:block", self.block, "Block a key.", bodies.OneKey),
            AdminRoute("POST", "/key/unblock", "key:unblock", self.unblock, "Unblock a key.", bodies.OneKey),
            AdminRoute("POST", "/key/regenerate", "key:rotate", self.rotate, "Replace the secret of a key.", bodies.RotateKey),
            AdminRoute("POST", "/key/{key}/regenerate", "key:rotate", self.rotate, "Replace the secret of a key.", bodies.RotateKey),
            AdminRoute("GET", "/key/info", "key:read", self.info, "One key; the caller's own by default.", query=("key",)),
            AdminRoute("POST", "/v2/key/info", "key:read", self.infos, "Several keys by id or alias.", bodies.DeleteKeys),
            AdminRoute("POST", "/key/health", "key:read", self.health, "Whether the caller's key works."),
            AdminRoute(
                "GET", "/key/list", "key:list", self.listing, "A page of keys.",
                query=("page", "size", "user_id", "team_id", "organization_id", "key_hash", "key_alias", "search", "status", "return_full_object"),
            ),
            AdminRoute("GET", "/key/aliases", "key:list", self.aliases, "Aliases of keys.", query=("page", "size", "search")),
        ]  # fmt: skip

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────

    async def generate(self, call: AdminCall) -> Any:
        """The answer contains the key, which is never shown again."""
        async with self.book.change() as change:
            if call.body.key and call.body.sha256:
                raise BadRequest("key and sha256 exclude each other: send only one")
            digest = call.body.sha256
            text = None if digest else _checked(call.body.key) if call.body.key else mint()
            row = await self.create(change, call, text, Presented(digest, digest) if digest else None)
        return self._with_secret(row, text)

    async def create(self, change: Change, call: AdminCall, text: str | None, given: Presented | None = None) -> Row:
        """Insert a key as the body says. Raises ``BadRequest``, ``Forbidden``, ``Conflict``, ``NotFound``.

        Args:
            change: the write it is part of.
            call: its body describes the key.
            text: the key; ``None`` if only its SHA-256 is known.
            given: id and proof of the key, if ``text`` is ``None``.
        """
        caller = call.caller
        given = given or presented(text or "")
        assert given.id is not None, "what is minted, and what is checked, is a key"
        row = {
            **new_row(given.id, caller.id),
            "hint": hint(text) if text else "",
            "expires": expiry(call.body.duration),
        }
        row = self._columns(call, row)
        if caller.role != "admin" and row["user_id"] is None and row["team_id"] is None:
            row["user_id"] = caller.user
        row["policies"] = await self.desk.policies(call, {})
        await self._belongs(change, call, row)
        policy.within_grant(caller, row)
        await change.insert("key", row)
        await self._secret(change, given, row["id"])
        return row

    async def update(self, call: AdminCall) -> Any:
        """Fields that are absent stay."""
        async with self.book.change() as change:
            row = await self._changed(call, await self._mine(call, call.body.key))
            await self._belongs(change, call, row)
            await change.update("key", [row["id"]], {k: v for k, v in row.items() if k != "id"})
        return {"key": call.body.key, **key_row(row, await self.desk.spent("key", [row]))}

    async def delete(self, call: AdminCall) -> Any:
        """All or none."""
        names, aliases = call.body.keys or [], call.body.key_aliases or []
        ids = self.desk.ids_of(names)
        self.book.own("key", ids)
        async with self.book.change() as change:
            rows = await self.book.keys_by_name(ids, aliases)
            if not rows or len(rows) < len(set(ids)) + len(set(aliases)):
                raise NotFound("Key not found.")
            for row in rows:
                policy.reach(policy.owns_key(call.caller, row, await self.book.get("team", row["team_id"])), "key")
            await change.delete("key", [row["id"] for row in rows])
        return {"deleted_keys": [*names, *aliases]}

    async def block(self, call: AdminCall) -> Any:
        """Effective on every worker within a second."""
        return await self._set_blocked(call, blocked=True)

    async def unblock(self, call: AdminCall) -> Any:
        """Undo a block."""
        return await self._set_blocked(call, blocked=False)

    async def rotate(self, call: AdminCall) -> Any:
        """A new secret for the same key; the old ones work until the grace period is over."""
        named = call.path.get("key") or call.body.key
        if not named:
            raise BadRequest("key is missing")
        if call.body.new_key and call.caller.role != "admin":
            raise BadRequest("new_key: only an admin may choose a key")
        text = _checked(call.body.new_key) if call.body.new_key else mint()
        until = expiry(call.body.grace_period or "0s")
        async with self.book.change() as change:
            row = await self._changed(call, await self._mine(call, named))
            row["hint"] = hint(text)
            await self._belongs(change, call, row)
            old = (SECRET.c.key_id == row["id"]) & or_(SECRET.c.until.is_(None), SECRET.c.until > until)
            await change.sql.execute(update(SECRET).where(old).values(until=until))
            await self._secret(change, presented(text), row["id"])
            await change.update("key", [row["id"]], {k: v for k, v in row.items() if k != "id"})
        return self._with_secret(row, text)

    async def info(self, call: AdminCall) -> Any:
        """The row without its token."""
        named = call.query.get("key") or call.caller.key
        if named is None:
            raise BadRequest("name a key: ?key=")
        return {"key": named, "info": await self._info(call, await self.desk.key(named))}

    async def infos(self, call: AdminCall) -> Any:
        """As :meth:`info`, for keys or aliases; all or none."""
        names, aliases = call.body.keys or [], call.body.key_aliases or []
        rows = [await self.desk.key(name) for name in names]
        rows += await self.book.keys_by_name([], aliases) if aliases else []
        if len(rows) < len(names) + len(set(aliases)):
            raise NotFound("Key not found.")
        return {"key": names or aliases, "info": [await self._info(call, row) for row in rows]}

    async def health(self, _call: AdminCall) -> Any:
        """Only a caller with a working key gets this answer."""
        return {"key": "healthy", "logging_callbacks": None}

    async def listing(self, call: AdminCall) -> Any:
        """A page of ids, or of whole rows with ``return_full_object=true``."""
        rows, total, page, size = await self._page(call)
        if call.query.get("return_full_object", "").lower() == "true":
            spend = await self.desk.spent("key", rows)
            listed: list[Any] = [key_row(row, spend) for row in rows]
        else:
            listed = [row["id"] for row in rows]
        return {"keys": listed, "total_count": total, "current_page": page, "total_pages": pages(total, size)}

    async def aliases(self, call: AdminCall) -> Any:
        """A page of aliases, of the keys that have one."""
        rows, total, page, size = await self._page(call, named=True)
        names = [row["alias"] for row in rows]
        return {
            "aliases": names,
            "total_count": total,
            "current_page": page,
            "total_pages": pages(total, size),
            "size": size,
        }

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _info(self, call: AdminCall, row: Row) -> dict[str, Any]:
        policy.reach(policy.reads_key(call.caller, row, await self.book.get("team", row["team_id"])), "key")
        info = key_row(row, await self.desk.spent("key", [row]))
        del info["token"]
        return {**info, "status": status_of(row)}

    async def _page(self, call: AdminCall, *, named: bool = False) -> tuple[list[Row], int, int, int]:
        page, size = page_of(call)
        query = call.query
        columns = {
            "user_id": "user_id",
            "team_id": "team_id",
            "organization_id": "organisation_id",
            "key_alias": "alias",
        }
        equal = {column: query[name] for name, column in columns.items() if query.get(name)}
        if query.get("key_hash"):
            equal["id"] = self.desk.ids_of([query["key_hash"]])[0]
        status = query.get("status")
        if status not in _STATUSES:
            raise BadRequest("status must be active, expired, revoked or deleted; deleted keys are not kept")
        only = Filter(equal, scope_of(call.caller).among, query.get("search"), named, status)
        rows, total = await self.book.listed("key", only, page=page, size=size)
        return rows, total, page, size

    async def _mine(self, call: AdminCall, named: str) -> Row:
        """A key that the caller may change."""
        row = await self.desk.key(named)
        policy.reach(policy.owns_key(call.caller, row, await self.book.get("team", row["team_id"])), "key")
        self.book.own("key", [row["id"]])
        return row

    async def _changed(self, call: AdminCall, before: Row) -> Row:
        """The row as changed by the body, after the checks that also apply on creation."""
        row = self._columns(call, {**before, **touched(call)})
        if "duration" in call.given:
            row["expires"] = expiry(call.body.duration)
        row["policies"] = await self.desk.policies(call, before["policies"])
        policy.within_grant(call.caller, row)
        policy.keeps_tags(call.caller, before, row)
        policy.tightened(call.caller, before, row, await self.book.get("team", before["team_id"]))
        return row

    @staticmethod
    def _columns(call: AdminCall, row: Row) -> Row:
        values = common(call, row, "key_alias")
        for field, column, empty in _COLUMNS:
            value = getattr(call.body, field, None)
            if column not in values or field in call.given:
                values[column] = empty if value is None else value
        return values

    async def _belongs(self, change: Change, call: AdminCall, row: Row) -> None:
        """Check that team and organisation exist and match, and that the caller may assign them and the user.

        Creates the user if unknown.
        """
        caller = call.caller
        team = None
        if row["team_id"] is not None:
            team = await self.desk.need("team", row["team_id"], f"Team not found, passed team id: {row['team_id']}.")
            if "team_id" in call.given:
                policy.reach(policy.leads_team(caller, team), "team")
        if row["organisation_id"] is not None:
            message = f"Organization not found, passed id: {row['organisation_id']}."
            await self.desk.need("organisation", row["organisation_id"], message)
            if team is not None and team["organisation_id"] not in {None, row["organisation_id"]}:
                raise BadRequest("the team belongs to another organization")
            if "organization_id" in call.given:
                policy.reach(caller.role == "admin" or row["organisation_id"] in caller.organisations, "organization")
        if row["user_id"] is not None:
            # a key acts in the admin API as its user, so only the team's leaders may assign keys to others
            others = caller.role == "admin" or row["user_id"] == caller.user
            policy.reach(others or (team is not None and policy.leads_team(caller, team)), "user")
            if not others:
                await self._harmless(row["user_id"], team)
            await self.desk.person(change, row["user_id"], None, caller.id)
        # the caller must still own the key: no change may detach it from the user, team or organisation that limits it
        policy.reach(policy.owns_key(caller, row, team), "key")

    async def _harmless(self, user: str, team: Row | None) -> None:
        """A team's leader may assign keys only to members, and never to an admin or viewer. Raises ``Forbidden``."""
        known = await self.book.get("user", user)
        member = await self.book.member(team["id"], user) if team else None
        policy.reach(member is not None and (known is None or known["role"] not in {"admin", "viewer"}), "user")

    async def _set_blocked(self, call: AdminCall, *, blocked: bool) -> Any:
        async with self.book.change() as change:
            row = {**await self._mine(call, call.body.key), "blocked": blocked, **touched(call)}
            values = {name: row[name] for name in ("blocked", "updated_at", "updated_by")}
            await change.update("key", [row["id"]], values)
        return key_row(row, await self.desk.spent("key", [row]))

    async def _secret(self, change: Change, given: Presented, key_id: str) -> None:
        if self.desk.pepper is None:
            raise BadRequest("this gateway has no auth.admin_key, so it cannot create keys")
        if given.proof in self.book.secrets:  # the declaration wins, so a stored key's settings would have no effect
            raise Conflict("this key is declared in the stack file")
        values = {"id": given.id, "key_id": key_id, "digest": self.desk.pepper.digest(given.proof), "until": None}
        try:
            await change.sql.execute(insert(SECRET).values(**values))
        except IntegrityError:
            raise Conflict("this key exists already") from None

    def _with_secret(self, row: Row, text: str | None) -> dict[str, Any]:
        return {**key_row(row, self.desk.unspent), "key": text, "token_id": row["id"]}


def _checked(text: str) -> str:
    """Validate a key chosen by an admin. Raises ``BadRequest`` for a weak one."""
    try:
        _CHOSEN.validate_python(text)
    except ValidationError as error:
        raise BadRequest(f"key {error.errors(include_url=False, include_input=False)[0]['msg']}") from None
    if not text.startswith("sk-") or presented(text).id is None or not text.isascii() or not text.isprintable():
        raise BadRequest("key must begin with sk- and hold printable ASCII")
    return text

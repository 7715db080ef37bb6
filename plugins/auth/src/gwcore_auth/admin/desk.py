"""Shared by the endpoints: reading and merging bodies, policies, times, and answering in LiteLLM's shapes."""

from __future__ import annotations

import calendar
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from gwcore.errors import BadRequest, NotServed
from gwcore.plugin import Setup
from gwcore.ports import AdminCall, Spending
from gwcore.units import DOLLAR, first_fault, parse_duration
from gwcore_auth.admin.bodies import LIMIT_FIELDS
from gwcore_auth.book import Book, Change, Row, clean, now
from gwcore_auth.keys import Pepper, presented

_MONTHS = re.compile(r"(\d{1,3})mo")
_LAST = 253_402_300_799_000
"""The latest date that can be formatted, the last second of the year 9999, in milliseconds since the epoch."""
_NEVER = {"-1", ""}


class NotFound(NotServed):
    """404: no such key, team, user, organisation or customer."""

    code = "not_found_error"


@dataclass(slots=True, frozen=True)
class Spent:
    """Dollars by id, and when the budget of a policy resets, in milliseconds since the epoch."""

    dollars: Mapping[str, float] = field(default_factory=dict)
    resets: Callable[[Mapping[str, Any]], int | None] = lambda _policy: None


class Desk:
    """Helpers of the endpoints; one per plugin instance."""

    def __init__(self, book: Book, pepper: Pepper | None, setup: Setup) -> None:
        self.book = book
        self.pepper = pepper
        self.setup = setup

    # ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def policies(self, call: AdminCall, before: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the body into a row's policies: a value sets a field, ``null`` clears it, absent fields stay.

        Raises:
            BadRequest: the stack does not run the plugin that a field belongs to, or the plugin does not accept it.
        """
        after: dict[str, Any] = {plugin: dict(settings) for plugin, settings in before.items()}
        wanted = {name: getattr(call.body, name) for name in call.given if name in LIMIT_FIELDS}
        changes = [(plugin, name, wanted[name]) for name, plugin in LIMIT_FIELDS.items() if name in wanted]
        for plugin, settings in ((call.body.policies or {}) if "policies" in call.given else {}).items():
            changes += [(plugin, name, value) for name, value in settings.items()]
        return await self.checked(after, changes)

    async def checked(self, after: dict[str, Any], changes: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
        """Apply (plugin, field, value) and validate against the plugins' models. Raises ``BadRequest``."""
        for plugin, name, value in changes:
            settings = after.setdefault(plugin, {})
            if value is None:
                settings.pop(name, None)
                continue
            if plugin not in self.setup.policies:
                raise BadRequest(f"{name} is a setting of {plugin}, which this gateway does not run; add it to stack")
            settings[name] = value
        kept = {plugin: settings for plugin, settings in after.items() if settings}
        for plugin, settings in kept.items():
            model = self.setup.policies.get(plugin)
            try:
                if model is not None:
                    model.model_validate(settings)
            except ValidationError as error:
                raise BadRequest(f"{plugin}: {first_fault(error)}") from None
        port = self._spending
        if port is not None and "budget" in kept and any(name == "budget_id" for _, name, _ in changes):
            await port.check(kept["budget"])
        return kept

    # ── spend ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def spent(self, scope: str, rows: Iterable[Row]) -> Spent:
        """The spend of rows, for display; empty if no plugin tracks spend."""
        port = self._spending
        if port is None:
            return Spent()
        policies = {row["id"]: row["policies"].get("budget", {}) for row in rows}
        dollars = {id_: nano / DOLLAR for id_, nano in (await port.spent(scope, policies)).items()}
        return Spent(dollars, port.resets)

    @property
    def unspent(self) -> Spent:
        """The spend of new rows."""
        port = self._spending
        return Spent() if port is None else Spent(resets=port.resets)

    @property
    def _spending(self) -> Spending | None:
        return self.setup.offered(Spending)

    # ── things ───────────────────────────────────────────────────────────────────────────────────────────────────

    def ids_of(self, texts: Iterable[str]) -> list[str]:
        """Ids of keys in the store, from secrets or ids; ``""`` for a secret that cannot be valid."""
        found = []
        for text in texts:
            shown = presented(text)
            declared = self.book.secrets.get(shown.proof)
            # never look up a text that looks like a key's secret as an id
            found.append(declared or (shown.id or "" if text.startswith("sk-") else text))
        return found

    async def key(self, text: str) -> Row:
        """One key, by its secret, its id or the id of one of its secrets. Raises ``NotFound``."""
        (name,) = self.ids_of([text])
        if ("key", name) in self.book.declared:
            return self.book.declared["key", name]
        found = await self.book.keys_by_name([name]) if name else []
        if not found:
            raise NotFound("Key not found.")
        return found[0]

    async def need(self, kind: str, id_: str | None, message: str) -> Row:
        """One row. Raises ``NotFound`` with the message."""
        row = await self.book.get(kind, id_)
        if row is None:
            raise NotFound(message)
        return row

    async def person(self, change: Change, user_id: str | None, email: str | None, by: str) -> str:
        """The id of a user, given by id or email; creates the user if unknown. Raises ``BadRequest``."""
        if user_id is None and email is None:
            raise BadRequest("name a user: user_id or user_email")
        if user_id is None:
            known = await self.by_email(email or "")
            if known is not None:
                return str(known["id"])
        id_ = clean("user", user_id or str(uuid.uuid4()))
        if await self.book.get("user", id_) is None:
            await change.insert("user", {**new_row(id_, by), "email": email, "role": "user"})
        return id_

    async def by_email(self, email: str) -> Row | None:
        """A user by email."""
        for (kind, _), row in self.book.declared.items():
            if kind == "user" and row.get("email") == email:
                return row
        return await self.book.user_by_email(email)


def new_row(id_: str, by: str) -> Row:
    """The columns common to all kinds of rows."""
    at = now()
    return {
        "id": id_,
        "alias": None,
        "blocked": False,
        "models": [],
        "tags": [],
        "metadata": {},
        "policies": {},
        "created_at": at,
        "created_by": by,
        "updated_at": at,
        "updated_by": by,
    }


def common(call: AdminCall, row: Row, alias: str) -> Row:
    """The row with those common columns that the body sets; ``alias``: the body's field for the alias."""
    body: BaseModel = call.body
    values: Row = {}
    for name, column, empty in (
        (alias, "alias", None),
        ("models", "models", []),
        ("tags", "tags", []),
        ("metadata", "metadata", {}),
        ("blocked", "blocked", False),
    ):
        if name in call.given:
            value = getattr(body, name)
            values[column] = empty if value is None else value
    return {**row, **values}


def touched(call: AdminCall) -> Row:
    """The columns that record who changed a row, and when."""
    return {"updated_at": now(), "updated_by": call.caller.id}


def expiry(duration: str | None, begin: int | None = None) -> int | None:
    """When a duration from ``begin`` (default: now) ends, in milliseconds since the epoch; ``None`` for never.

    Exact, not rounded to the end of a day.

    Raises:
        BadRequest: not a duration, or it ends after the year 9999.
    """
    if duration is None or duration in _NEVER:
        return None
    begin = now() if begin is None else begin
    try:
        at = _after(begin, duration)
    except PydanticCustomError as error:
        raise BadRequest(f"duration {error.message()}: {(error.context or {}).get('mend')}") from None
    except OverflowError:
        at = _LAST + 1
    if at > _LAST:
        raise BadRequest("duration ends after the year 9999: leave it out for a key that never expires")
    return at


def _after(begin: int, duration: str) -> int:
    months = _MONTHS.fullmatch(duration)
    if months is None:
        return begin + round(parse_duration(duration) * 1000)
    start = datetime.fromtimestamp(begin / 1000, UTC)
    year, month = divmod(start.month - 1 + int(months[1]), 12)
    day = min(start.day, calendar.monthrange(start.year + year, month + 1)[1])
    return int(start.replace(year=start.year + year, month=month + 1, day=day).timestamp() * 1000)


def iso(at: int | None) -> str | None:
    """A time as LiteLLM's clients expect it."""
    if at is None:
        return None
    at = min(at, _LAST)  # a row written by an older release must not break every list
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def limits_of(row: Row) -> dict[str, Any]:
    """The limits in a row's policies as flat fields."""
    return {name: row["policies"].get(plugin, {}).get(name) for name, plugin in LIMIT_FIELDS.items()}


def shown(row: Row, spend: Spent) -> dict[str, Any]:
    """The fields that an answer shows of every kind of row."""
    others = {p: s for p, s in row["policies"].items() if p not in {"budget", "ratelimit"}}
    return {
        **limits_of(row),
        "spend": spend.dollars.get(row["id"], 0.0),
        "models": row["models"],
        "metadata": row["metadata"],
        "tags": row["tags"],
        "blocked": row["blocked"],
        "policies": others,
        "budget_reset_at": iso(spend.resets(row["policies"].get("budget", {}))),
        "litellm_budget_table": None,
        "model_spend": {},
        "object_permission": None,
        "created_at": iso(row["created_at"]),
        "created_by": row["created_by"],
        "updated_at": iso(row["updated_at"]),
        "updated_by": row["updated_by"],
    }


def budget_table(row: Row) -> dict[str, Any]:
    """The limits of an organisation or customer as LiteLLM shows them: as a separate budget."""
    return {**limits_of(row), "budget_id": row["policies"].get("budget", {}).get("budget_id")}


def page_of(call: AdminCall, size: str = "size", default: int = 10, most: int = 100) -> tuple[int, int]:
    """Page (from 1) and its size. Raises ``BadRequest``."""
    try:
        page, many = int(call.query.get("page", "1")), int(call.query.get(size, str(default)))
    except ValueError:
        raise BadRequest(f"page and {size} are whole numbers") from None
    if page < 1 or not 1 <= many <= most or page > 1_000_000:
        raise BadRequest(f"page begins at 1, and {size} is 1 to {most}")
    return page, many


def pages(total: int, size: int) -> int:
    """The number of pages."""
    return -(-total // size)

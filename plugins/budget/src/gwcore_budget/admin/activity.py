"""``/key|user|team|organization|customer|tag/daily/activity``: spend per day, with breakdowns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from gwcore.ports import AdminCall, AdminRoute
from gwcore_budget import reports
from gwcore_budget.admin.desk import Desk, answering, money, page_of
from gwcore_budget.reports import Line, Sums, Where

_QUERY = ("start_date", "end_date", "model", "api_key", "page", "page_size")
_SCOPES = {
    "key": ("key", ("key_ids",)),
    "user": ("user", ("user_id",)),
    "team": ("team", ("team_ids", "exclude_team_ids")),
    "organization": ("organisation", ("organization_ids",)),
    "customer": ("end_user", ("end_user_ids",)),
}
"""First segment of the path → scope, and the query parameters that list ids."""
_PARTS = {"models": "model", "model_groups": "model_asked", "providers": "upstream", "api_keys": "key_id"}
"""Name of a breakdown → column."""


class Activity:
    """Endpoints of daily activity."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> Sequence[AdminRoute]:
        """For ``Plugin.admin_routes``."""
        return (
            *(
                AdminRoute("GET", f"/{word}/daily/activity", "spend:read", answering(partial(self.days, scope)), f"Spend and usage by {word} and day.", None, (*_QUERY, *names))
                for word, (scope, names) in _SCOPES.items()
            ),
            AdminRoute("GET", "/tag/daily/activity", "spend:report", answering(self.tags), "Spend and usage by tag and day.", None, (*_QUERY[:2], "tags", "page", "page_size")),
        )  # fmt: skip

    async def days(self, scope: str, call: AdminCall) -> Any:
        """``GET /…/daily/activity``: paged by days, the newest first."""
        desk, query = self.desk, call.query
        column = reports.COLUMNS[scope]
        where = Where().within(call.caller.reach).between("day", *desk.days(call, default=30))
        where.equal("model_asked", query.get("model")).equal("key_id", desk.key_id(query.get("api_key")))
        names = next(names for known, names in _SCOPES.values() if known == scope)
        if wanted := query.get(names[0]):
            ids = {one.strip() for one in wanted.split(",")}
            where.among(column, {desk.key_id(id_) or "" for id_ in ids} if scope == "key" else ids)
        elif scope not in {"user", "key"}:
            where.present(column)
        if excluded := query.get("exclude_team_ids" if scope == "team" else ""):
            where.without(column, {one.strip() for one in excluded.split(",")})
        page, size = page_of(call, 50, 1000)
        per_day = await reports.sums(desk.home, ("day",), where)
        shown = [day for (day,), _ in reversed(per_day)][(page - 1) * size : page * size]
        if shown:  # other pages are only part of the totals
            where.between("day", shown[-1], shown[0])
        parts = {name: await self._part(column_, where, shown) for name, column_ in _PARTS.items()}
        parts["entities"] = await self._part(column, where, shown)
        aliases = {
            "api_keys": await desk.aliases("key", _ids(parts["api_keys"])),
            "entities": await desk.aliases(scope, _ids(parts["entities"])),
        }
        totals = dict(per_day)
        results = [
            _day(day, totals[day,], {name: part.get(day, []) for name, part in parts.items()}, aliases)
            async for day in reports.unhurried(shown, 1)
        ]
        return {"results": results, "metadata": _metadata([s for _, s in per_day], len(per_day), page, size)}

    async def _part(self, column: str, where: Where, shown: list[str]) -> dict[str, list[Line]]:
        if not shown:
            return {}
        days: dict[str, list[Line]] = {day: [] for day in shown}
        async for (day, name), sums in reports.unhurried(await reports.sums(self.desk.home, ("day", column), where)):
            if name and day in days:
                days[day].append(((name,), sums))
        return days

    async def tags(self, call: AdminCall) -> Any:
        """``GET /tag/daily/activity``. An attempt with two tags counts for both."""
        where = Where().between("day", *self.desk.days(call, default=30))
        if wanted := call.query.get("tags"):
            where.among("tag", {tag.strip() for tag in wanted.split(",")})
        page, size = page_of(call, 50, 1000)
        days: dict[str, list[Line]] = {}
        for (day, tag), sums in await reports.tags(self.desk.home, where, by_day=True):
            days.setdefault(day, []).append(((tag,), sums))
        totals = {day: _added(sums for _, sums in lines) for day, lines in days.items()}
        shown = sorted(days, reverse=True)[(page - 1) * size : page * size]
        results = [_day(day, totals[day], {"entities": days[day]}, {}) for day in shown]
        return {"results": results, "metadata": _metadata(totals.values(), len(days), page, size)}


def _ids(part: Mapping[str, list[Line]]) -> set[str]:
    return {name for lines in part.values() for (name,), _ in lines}


def _added(many: Iterable[Sums]) -> Sums:
    total = Sums()
    for one in many:
        total += one
    return total


def _metrics(sums: Sums) -> dict[str, Any]:
    return {
        "spend": money(sums.spend),
        "prompt_tokens": sums.prompt,
        "completion_tokens": sums.output,
        "cache_read_input_tokens": sums.cache_read,
        "cache_creation_input_tokens": sums.cache_write,
        "total_tokens": sums.prompt + sums.output,
        "successful_requests": sums.attempts - sums.failed,
        "failed_requests": sums.failed,
        "api_requests": sums.attempts,
    }


def _day(
    day: str, total: Sums, parts: Mapping[str, list[Line]], aliases: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    def described(name: str, id_: str) -> dict[str, Any]:
        known = aliases.get(name, {}).get(id_)
        return {"key_alias" if name == "api_keys" else "alias": known} if name in {"api_keys", "entities"} else {}

    breakdown = {
        name: {
            id_: {"metrics": _metrics(sums), "metadata": described(name, id_)} for (id_,), sums in parts.get(name, [])
        }
        for name in (*_PARTS, "entities")
    }
    return {"date": day, "metrics": _metrics(total), "breakdown": {**breakdown, "mcp_servers": {}}}


def _metadata(all_: Iterable[Sums], days: int, page: int, size: int) -> dict[str, Any]:
    total = _metrics(_added(all_))
    names = {"api_requests": "total_api_requests", "total_tokens": "total_tokens"}
    pages = -(-days // size)
    return {
        **{names.get(name, f"total_{name}"): value for name, value in total.items()},
        "page": page,
        "total_pages": pages,
        "has_more": page < pages,
    }

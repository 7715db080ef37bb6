"""``/global/spend/*``: the whole gateway's spend, for callers who may see all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute
from gwcore_budget import reports
from gwcore_budget.admin.desk import Desk, answering, day_of, money
from gwcore_budget.reports import Line, Sums, Where

_DAYS = ("start_date", "end_date")
_GROUPS = {"team": ("team", "teams", "team_name"), "customer": ("end_user", "customers", "customer")}


class EndUsers(BaseModel):
    """``/global/spend/end_users``."""

    model_config = ConfigDict(extra="forbid")

    api_key: str | None = Field(default=None, description="Only calls of this key.")
    first: str | None = Field(default=None, alias="startTime", description="First day.")
    last: str | None = Field(default=None, alias="endTime", description="Last day.")


class Totals:
    """Endpoints of the whole gateway's spend."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> Sequence[AdminRoute]:
        """For ``Plugin.admin_routes``."""
        all_ = "spend:report"
        report = (*_DAYS, "group_by", "api_key", "internal_user_id", "team_id", "customer_id")
        return (
            AdminRoute("GET", "/global/spend", all_, answering(self.whole), "The whole gateway's spend."),
            AdminRoute("GET", "/global/spend/logs", all_, answering(self.per_day), "Spend per day.", None, ("api_key", *_DAYS)),
            AdminRoute("GET", "/global/spend/report", all_, answering(self.report), "Spend by team, customer or key.", None, report),
            AdminRoute("GET", "/global/spend/keys", all_, answering(self.keys), "Keys by spend.", None, ("limit", *_DAYS)),
            AdminRoute("GET", "/global/spend/teams", all_, answering(self.teams), "Teams by spend, and per day.", None, _DAYS),
            AdminRoute("GET", "/global/spend/models", all_, answering(self.models), "Models by spend.", None, ("limit", *_DAYS)),
            AdminRoute("GET", "/global/spend/provider", all_, answering(self.upstreams), "Upstreams by spend.", None, _DAYS),
            AdminRoute("GET", "/global/spend/tags", all_, answering(self.tags), "Tags by spend.", None, ("tags", *_DAYS)),
            AdminRoute("GET", "/global/spend/all_tag_names", all_, answering(self.tag_names), "Tags that were used."),
            AdminRoute("POST", "/global/spend/end_users", all_, answering(self.end_users), "End users by spend.", EndUsers),
        )  # fmt: skip

    async def _largest(self, call: AdminCall, column: str, limit: int | None = None) -> list[Line]:
        where = Where().between("day", *self.desk.days(call, default=30)).present(column)
        return await reports.sums(self.desk.home, (column,), where, limit=limit, largest=True)

    async def whole(self, _call: AdminCall) -> Any:
        """``GET /global/spend``: spend in the running period of the global budget; if there is none, of all time."""
        desk, main = self.desk, await self.desk.main("global", ("",))
        running = (await reports.running(desk.home, "global", ("",), desk.now(), main)).get("")
        if running is not None:
            return {"spend": money(running.posted), "max_budget": money(running.limit)}
        sums = await reports.sums(desk.home, ())
        return {"spend": money(sums[0][1].spend if sums else 0), "max_budget": None}

    async def per_day(self, call: AdminCall) -> Any:
        """``GET /global/spend/logs``."""
        where = Where().between("day", *self.desk.days(call, default=30))
        where.equal("key_id", self.desk.key_id(call.query.get("api_key")))
        return [
            {"date": day, "spend": money(s.spend)} for (day,), s in await reports.sums(self.desk.home, ("day",), where)
        ]

    async def keys(self, call: AdminCall) -> Any:
        """``GET /global/spend/keys``."""
        lines = await self._largest(call, "key_id", _few(call))
        aliases = await self.desk.aliases("key", [id_ for (id_,), _ in lines])
        return [
            {"api_key": id_, "key_name": id_, "key_alias": aliases.get(id_), "total_spend": money(sums.spend)}
            for (id_,), sums in lines
        ]

    async def models(self, call: AdminCall) -> Any:
        """``GET /global/spend/models``."""
        lines = await self._largest(call, "model_asked", _few(call))
        return [{"model": name, "total_spend": money(sums.spend)} for (name,), sums in lines]

    async def upstreams(self, call: AdminCall) -> Any:
        """``GET /global/spend/provider``: by upstream of the stack file."""
        return [
            {"provider": name, "spend": money(sums.spend)} for (name,), sums in await self._largest(call, "upstream")
        ]

    async def teams(self, call: AdminCall) -> Any:
        """``GET /global/spend/teams``."""
        where = Where().between("day", *self.desk.days(call, default=30)).present("team")
        lines = await reports.sums(self.desk.home, ("day", "team"), where)
        totals: dict[str, int] = {}
        for (_, team), sums in lines:
            totals[team] = totals.get(team, 0) + sums.spend
        aliases = await self.desk.aliases("team", totals)
        daily: dict[str, dict[str, int]] = {}
        for (day, team), sums in lines:
            row, name = daily.setdefault(day, {}), aliases.get(team, team)
            row[name] = row.get(name, 0) + sums.spend  # teams may share an alias, but not an id
        return {
            # `date` last, because a team may have that name
            "daily_spend": [
                {**{name: money(nano) for name, nano in row.items()}, "date": day} for day, row in daily.items()
            ],
            "teams": [aliases.get(team, team) for team in totals],
            "total_spend_per_team": [
                {"team_id": team, "team_alias": aliases.get(team), "total_spend": money(nano)}
                for team, nano in sorted(totals.items(), key=lambda pair: -pair[1])
            ],
        }

    async def tags(self, call: AdminCall) -> Any:
        """``GET /global/spend/tags``."""
        where = Where().between("day", *self.desk.days(call, default=30))
        if wanted := call.query.get("tags"):
            where.among("tag", {tag.strip() for tag in wanted.split(",")})
        lines = await reports.tags(self.desk.home, where)
        return {
            "spend_per_tag": [
                {"name": tag, "spend": money(sums.spend), "log_count": sums.attempts} for (tag,), sums in lines
            ]
        }

    async def tag_names(self, _call: AdminCall) -> Any:
        """``GET /global/spend/all_tag_names``."""
        return {"tag_names": [tag for (tag,), _ in await reports.tags(self.desk.home)]}

    async def end_users(self, call: AdminCall) -> Any:
        """``POST /global/spend/end_users``."""
        body: EndUsers = call.body
        first = day_of(body.first, "startTime").isoformat() if body.first else None
        last = day_of(body.last, "endTime").isoformat() if body.last else None
        where = Where().between("day", first, last).present("end_user").equal("key_id", self.desk.key_id(body.api_key))
        lines = await reports.sums(self.desk.home, ("end_user",), where, limit=100, largest=True)
        return [
            {"end_user": id_, "total_count": sums.attempts, "total_spend": money(sums.spend)} for (id_,), sums in lines
        ]

    # ── /global/spend/report ─────────────────────────────────────────────────────────────────────────────────────

    async def report(self, call: AdminCall) -> Any:
        """``GET /global/spend/report``."""
        query = call.query
        where = Where().between("day", *self.desk.days(call, default=30))
        key = self.desk.key_id(query.get("api_key"))
        where.equal("key_id", key).equal("user_id", query.get("internal_user_id"))
        where.equal("team", query.get("team_id")).equal("end_user", query.get("customer_id"))
        group = query.get("group_by", "team")
        if group == "api_key" or (key is not None and "group_by" not in query):
            return await self._by_key(where)
        if group not in _GROUPS:
            raise BadRequest("group_by is team, customer or api_key")
        return await self._by_group(where, *_GROUPS[group])

    async def _by_key(self, where: Where) -> Any:
        keys: dict[str, list[Line]] = {}
        async for line in reports.unhurried(await reports.sums(self.desk.home, ("key_id", "model_asked"), where)):
            keys.setdefault(line[0][0], []).append(line)
        return [
            {
                "api_key": key,
                **_cost(_total(lines)),
                "model_details": [{"model": model, **_cost(sums)} for (_, model), sums in lines],
            }
            for key, lines in keys.items()
        ]

    async def _by_group(self, where: Where, column: str, plural: str, name: str) -> Any:
        lines = await reports.sums(self.desk.home, ("day", column, "model_asked", "key_id"), where.present(column))
        scope = "team" if column == "team" else "end_user"
        aliases = await self.desk.aliases(scope, {line[0][1] for line in lines})
        days: dict[str, dict[str, list[Line]]] = {}
        async for line in reports.unhurried(lines):
            days.setdefault(line[0][0], {}).setdefault(line[0][1], []).append(line)
        return [
            {
                "group_by_day": f"{day}T00:00:00+00:00",
                plural: [
                    {
                        name: aliases.get(id_, id_),
                        "total_spend": money(_total(found).spend),
                        "metadata": [
                            {
                                "model": model,
                                "spend": money(sums.spend),
                                "total_tokens": sums.prompt + sums.output,
                                "api_key": key,
                            }
                            for (_, _, model, key), sums in found
                        ],
                    }
                    for id_, found in groups.items()
                ],
            }
            async for day, groups in reports.unhurried(days.items(), 1)
        ]


def _total(lines: list[Line]) -> Sums:
    total = Sums()
    for _, one in lines:
        total += one
    return total


def _cost(sums: Sums) -> dict[str, Any]:
    return {
        "total_cost": money(sums.spend),
        "total_input_tokens": sums.prompt,
        "total_output_tokens": sums.output,
    }


def _few(call: AdminCall) -> int:
    try:
        limit = int(call.query.get("limit", "100"))
    except ValueError:
        limit = 0
    if not 1 <= limit <= 1000:
        raise BadRequest("limit is 1 to 1000")
    return limit

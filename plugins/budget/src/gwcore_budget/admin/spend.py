"""``/spend/*``: what was spent, limited to what the caller may see (:attr:`gwcore.ports.Caller.reach`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute, Page
from gwcore.usage import BUCKETS, IN, OUT
from gwcore_budget import reports
from gwcore_budget.admin.desk import Desk, answering, began, ended, iso, money, page_of
from gwcore_budget.admin.price import counted, price_of
from gwcore_budget.ledger.ops import VOIDED
from gwcore_budget.reports import Sums, Where

_DAYS = ("start_date", "end_date")
_MOST_ROWS, _ROWS = 10_000, 1000
SLICE = 100
"""Rows formatted between two yields to the event loop."""


class Calculate(BaseModel):
    """``/spend/calculate``."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(default=None, description="Model, by the name that a call would use.")
    messages: list[dict[str, Any]] | None = Field(
        default=None, description="Messages of a request, whose input is priced."
    )
    completion_response: dict[str, Any] | None = Field(default=None, description="An answer, whose usage is priced.")


class Count(BaseModel):
    """``/utils/token_counter``."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field(description="Model, by the name that a call would use.")
    prompt: Any = Field(default=None, description="Input as of a completions request.")
    messages: list[dict[str, Any]] | None = Field(
        default=None, description="Messages as of a chat completions or Anthropic Messages request."
    )
    contents: list[dict[str, Any]] | None = Field(default=None, description="Contents as of a Gemini request.")
    system: Any = Field(default=None, description="System prompt, in addition to `messages`.")
    tools: list[dict[str, Any]] | None = Field(default=None, description="Tools, in addition to `messages`.")


class Spend:
    """Endpoints of spend."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> Sequence[AdminRoute]:
        """For ``Plugin.admin_routes``."""
        logs = ("api_key", "user_id", "team_id", "end_user", "model", "request_id", *_DAYS)
        read = "spend:read"
        return (
            AdminRoute("GET", "/spend/logs", read, answering(self.logs), "Attempts, or days where dates are given.", None, (*logs, "summarize", "limit")),
            AdminRoute("GET", "/spend/logs/v2", read, answering(self.paged), "Upstream attempts with their cost, by page.", None, (*logs, "page", "page_size")),
            AdminRoute("GET", "/spend/keys", read, answering(self.keys), "Spend of one key, or of all.", None, ("key", "limit", *_DAYS)),
            AdminRoute("GET", "/spend/users", read, answering(self.users), "Spend of one user, or of all.", None, ("user_id", "limit", *_DAYS)),
            AdminRoute("GET", "/spend/teams", read, answering(self.teams), "Spend of one team, or of all.", None, ("team_id", "limit", *_DAYS)),
            AdminRoute("GET", "/spend/tags", "spend:report", answering(self.tags), "Spend by tag.", None, _DAYS),
            AdminRoute("POST", "/spend/calculate", "spend:calculate", self.calculate, "Price an answer, or messages.", Calculate),
            AdminRoute("POST", "/utils/token_counter", "spend:calculate", self.count, "Estimate the tokens of a request.", Count),
        )  # fmt: skip

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, call: AdminCall, first: str | None, last: str | None) -> Where:
        query = call.query
        where = Where().within(call.caller.reach).between("created", began(first), ended(last))
        where.equal("key_id", self.desk.key_id(query.get("api_key"))).equal("user_id", query.get("user_id"))
        where.equal("team", query.get("team_id")).equal("end_user", query.get("end_user"))
        return where.equal("model_asked", query.get("model")).of_request(query.get("request_id"))

    async def logs(self, call: AdminCall) -> Any:
        """``GET /spend/logs``."""
        first, last = self.desk.days(call)
        summarize = call.query.get("summarize", "true").lower() != "false" and not call.query.get("request_id")
        if first is not None and summarize:
            return await self._by_day(call, first, last)
        limit = _limit(call, default=_ROWS)
        rows = await reports.attempts(self.desk.home, self._asked(call, first, last), limit=limit)
        # ten thousand rows take half a second: other tasks must run meanwhile
        parts = [orjson.dumps(log_row(row)) async for row in reports.unhurried(rows, SLICE)]
        return Page(b"[%b]" % b",".join(parts), "application/json")

    async def _by_day(self, call: AdminCall, first: str, last: str | None) -> Any:
        query = call.query
        where = Where().within(call.caller.reach).between("day", first, last)
        where.equal("key_id", self.desk.key_id(query.get("api_key"))).equal("user_id", query.get("user_id"))
        where.equal("team", query.get("team_id")).equal("end_user", query.get("end_user"))
        where.equal("model_asked", query.get("model"))
        days: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {}
        lines = await reports.sums(self.desk.home, ("day", "key_id", "user_id", "model_asked"), where)
        async for (day, *names), sums in reports.unhurried(lines):
            for into, name in zip(days.setdefault(day, ({}, {}, {})), names, strict=True):
                into[name] = into.get(name, 0) + sums.spend
        return [
            # LiteLLM's format: keys are siblings of these four members, which win over a key of the same name
            {
                **_in_dollars(keys),
                "startTime": day,
                "spend": money(sum(keys.values())),
                "users": _in_dollars(users),
                "models": _in_dollars(models),
            }
            for day, (keys, users, models) in days.items()
        ]

    async def paged(self, call: AdminCall) -> Any:
        """``GET /spend/logs/v2``."""
        page, size = page_of(call, 50, 1000)
        where = self._asked(call, *self.desk.days(call))
        total = await reports.count(self.desk.home, where)
        rows = await reports.attempts(self.desk.home, where, limit=size, offset=(page - 1) * size)
        return {
            "data": [log_row(row) for row in rows],
            "total": total,
            "page": page,
            "page_size": size,
            "total_pages": -(-total // size),
        }

    # ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def keys(self, call: AdminCall) -> Any:
        """``GET /spend/keys``, the largest first."""
        wanted = self.desk.key_id(call.query.get("key") or call.query.get("api_key"))
        return await self._by_scope(call, "key", wanted, ("token", "key_alias"))

    async def users(self, call: AdminCall) -> Any:
        """``GET /spend/users``."""
        return await self._by_scope(call, "user", call.query.get("user_id"), ("user_id", "user_alias"))

    async def teams(self, call: AdminCall) -> Any:
        """``GET /spend/teams``."""
        return await self._by_scope(call, "team", call.query.get("team_id"), ("team_id", "team_alias"))

    async def _by_scope(self, call: AdminCall, scope: str, wanted: str | None, names: tuple[str, str]) -> Any:
        """``total_spend`` is of the days requested; ``spend`` of the running budget period, or of these days if none."""
        desk, column, reach = self.desk, reports.COLUMNS[scope], call.caller.reach
        where = Where().within(reach).between("day", *desk.days(call)).equal(column, wanted).present(column)
        lines = await reports.sums(desk.home, (column,), where, limit=_limit(call), largest=True)
        found = {id_: sums for (id_,), sums in lines}
        if wanted and not found and (reach is None or wanted in reach.get(scope, ())):
            found[wanted] = Sums()
        # an id's budget is shown only to callers who may see all of the id's spend
        whole = found if reach is None else reach.get(scope, frozenset()) & found.keys()
        main = await desk.main(scope, whole)
        now = await reports.running(desk.home, scope, whole, desk.now(), main)
        fresh = {id_ for id_, ids in (main or {}).items() if ids and id_ not in now}  # their budgets are not used yet
        aliases = await desk.aliases(scope, found)
        return [
            {
                names[0]: id_,
                names[1]: aliases.get(id_),
                "spend": money(now[id_].posted if id_ in now else 0 if id_ in fresh else sums.spend),
                "total_spend": money(sums.spend),
                "max_budget": money(now[id_].limit) if id_ in now else None,
                "budget_duration": None if id_ not in now or now[id_].window.name == "total" else now[id_].window.name,
                **_counted(sums),
            }
            for id_, sums in found.items()
        ]

    async def tags(self, call: AdminCall) -> Any:
        """``GET /spend/tags``. An attempt with two tags counts for both."""
        lines = await reports.tags(self.desk.home, Where().between("day", *self.desk.days(call)))
        return [
            {"individual_request_tag": tag, "log_count": sums.attempts, "total_spend": money(sums.spend)}
            for (tag,), sums in lines
        ]

    async def calculate(self, call: AdminCall) -> Any:
        """``POST /spend/calculate``."""
        body: Calculate = call.body
        if body.completion_response is None and body.messages is None:
            raise BadRequest("send messages or a completion_response")
        return {"cost": money(price_of(self.desk.setup, body.model or None, body.messages, body.completion_response))}

    async def count(self, call: AdminCall) -> Any:
        """``POST /utils/token_counter``. An estimate without a tokenizer; a call's answer reports its exact usage."""
        body: Count = call.body
        said = body.model_dump(exclude={"model"}, exclude_none=True)
        if said.keys().isdisjoint({"prompt", "messages", "contents"}):
            raise BadRequest("send messages, a prompt or contents")
        return counted(self.desk.setup, body.model, list(said.values()))


def log_row(row: dict[str, Any]) -> dict[str, Any]:
    """An attempt as LiteLLM shows a call. ``spend`` is null if it was not metered, and the worst case while it runs."""
    created, over, first = row["created"], row["ended"], row["first_byte_ms"]
    begun = None if first is None else created + first
    if begun is not None and over is not None:
        begun = min(begun, over)  # the row is created a moment after the attempt begins
    # null while it runs
    of = {bucket: row.get(bucket) or 0 for bucket in BUCKETS}
    prompt = sum(of[bucket] for bucket in IN)
    completion = sum(of[bucket] for bucket in OUT)
    failed = row["state"] == VOIDED or (row["status"] or 0) >= 400 or row["error"] is not None
    return {
        "request_id": row["request"],
        "litellm_call_id": row["request"],
        "attempt": row["attempt"],
        "call_type": row["operation"],
        "api_key": row["key_id"] or "",
        "spend": money(row["settled"] if over is not None else row["amount"]),
        "total_tokens": prompt + completion,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cache_read_input_tokens": of["cache_read"],
        "cache_creation_input_tokens": of["cache_write_5m"] + of["cache_write_1h"],
        "startTime": iso(created),
        "endTime": iso(over),
        "completionStartTime": iso(begun),
        "request_duration_ms": row["duration_ms"],
        "model": row["model"],
        "model_id": f"{row['upstream']}/{row['model']}",
        "model_group": row["model_asked"],
        "custom_llm_provider": row["provider"],
        "api_base": row["upstream"],
        "user": row["user_id"] or "",
        "team_id": row["team"],
        "organization_id": row["organisation"],
        "end_user": row["end_user"],
        "session_id": row["session"],
        "request_tags": orjson.loads(row["tags"]),
        "metadata": {"basis": row["basis"], "price_version": row["price_version"], "error": row["error"]},
        "cache_hit": "False",
        "cache_key": None,
        "requester_ip_address": None,
        "messages": {},
        "response": {},
        "proxy_server_request": {},
        "agent_id": None,
        "mcp_namespaced_tool_name": None,
        "status": "pending" if over is None else "failure" if failed else "success",
    }  # fmt: skip


def _counted(sums: Sums) -> dict[str, Any]:
    return {
        "api_requests": sums.attempts,
        "failed_requests": sums.failed,
        "prompt_tokens": sums.prompt,
        "completion_tokens": sums.output,
    }


def _in_dollars(spent: dict[str, int]) -> dict[str, float | None]:
    return {name: money(nano) for name, nano in spent.items()}


def _limit(call: AdminCall, default: int = _MOST_ROWS) -> int:
    try:
        limit = int(call.query.get("limit", default))
    except ValueError:
        limit = 0
    if not 1 <= limit <= _MOST_ROWS:
        raise BadRequest(f"limit is 1 to {_MOST_ROWS}; more is read by page from /spend/logs/v2")
    return limit

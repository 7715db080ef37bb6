"""``/customer/*`` and ``/end_user/*``: the end users that clients name in their calls."""

from __future__ import annotations

from typing import Any

from gwcore.errors import BadRequest
from gwcore.ports import AdminCall, AdminRoute
from gwcore_auth.admin import bodies
from gwcore_auth.admin.desk import Desk, Spent, budget_table, common, new_row, shown, touched
from gwcore_auth.book import Conflict, Filter, Row, clean


def customer_row(row: Row, spend: Spent) -> dict[str, Any]:
    """A customer as LiteLLM shows it."""
    return {
        **shown(row, spend),
        "user_id": row["id"],
        "alias": row["alias"],
        "allowed_model_region": None,
        "default_model": None,
        "budget_id": row["policies"].get("budget", {}).get("budget_id"),
        "litellm_budget_table": budget_table(row),
    }


class Customers:
    """Endpoints of customers."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.book = desk.book

    def routes(self) -> list[AdminRoute]:
        """Their addresses, under both names."""
        found = []
        for noun in ("/customer", "/end_user"):
            found += [
                AdminRoute(
                    "POST",
                    f"{noun}/new",
                    "customer:create",
                    self.new,
                    "Create a customer (end user).",
                    bodies.NewCustomer,
                ),
                AdminRoute(
                    "POST",
                    f"{noun}/update",
                    "customer:update",
                    self.update,
                    "Change a customer.",
                    bodies.UpdateCustomer,
                ),
                AdminRoute("POST", f"{noun}/delete", "customer:delete", self.delete, "Delete customers.", bodies.Users),
                AdminRoute("POST", f"{noun}/block", "customer:block", self.block, "Block customers.", bodies.Users),
                AdminRoute(
                    "POST", f"{noun}/unblock", "customer:block", self.unblock, "Unblock customers.", bodies.Users
                ),
                AdminRoute("GET", f"{noun}/info", "customer:read", self.info, "One customer.", query=("end_user_id",)),
                AdminRoute("GET", f"{noun}/list", "customer:list", self.listing, "The customers, at most 1,000."),
            ]
        return found

    async def new(self, call: AdminCall) -> Any:
        """An id that exists is an error."""
        id_ = clean("customer", call.body.user_id)
        if await self.book.get("end_user", id_) is not None:
            raise Conflict(f"Customer already exists, passed user_id={id_}.")
        row = common(call, new_row(id_, call.caller.id), "alias")
        row["policies"] = await self.desk.policies(call, {})
        async with self.book.change() as change:
            await change.insert("end_user", row)
        return customer_row(row, self.desk.unspent)

    async def update(self, call: AdminCall) -> Any:
        """Fields that are absent stay."""
        async with self.book.change() as change:
            before = await self._one(call.body.user_id)
            self.book.own("end_user", [before["id"]])
            row = common(call, {**before, **touched(call)}, "alias")
            row["policies"] = await self.desk.policies(call, before["policies"])
            await change.update("end_user", [row["id"]], {k: v for k, v in row.items() if k != "id"})
        return await self._shown(row)

    async def delete(self, call: AdminCall) -> Any:
        """All or none."""
        ids = call.body.user_ids
        self.book.own("end_user", ids)
        async with self.book.change() as change:
            for id_ in ids:
                await self._one(id_)
            await change.delete("end_user", ids)
        return {"deleted_customers": len(ids), "message": "Successfully deleted customers with ids: " + ", ".join(ids)}

    async def block(self, call: AdminCall) -> Any:
        """Also creates unknown customers, so that the block holds from their first call."""
        return await self._set_blocked(call, blocked=True)

    async def unblock(self, call: AdminCall) -> Any:
        """Undo a block; also creates unknown customers."""
        return await self._set_blocked(call, blocked=False)

    async def info(self, call: AdminCall) -> Any:
        """The row."""
        id_ = call.query.get("end_user_id")
        if not id_:
            raise BadRequest("name a customer: ?end_user_id=")
        return await self._shown(await self._one(id_))

    async def listing(self, _call: AdminCall) -> Any:
        """At most 1000, newest first."""
        rows, _ = await self.book.listed("end_user", Filter(), page=1, size=1000)
        spend = await self.desk.spent("end_user", rows)
        return [customer_row(row, spend) for row in rows]

    async def _one(self, id_: str) -> Row:
        return await self.desk.need("end_user", id_, f"End User Id={id_} does not exist in db")

    async def _shown(self, row: Row) -> dict[str, Any]:
        return customer_row(row, await self.desk.spent("end_user", [row]))

    async def _set_blocked(self, call: AdminCall, *, blocked: bool) -> Any:
        ids = [clean("customer", id_) for id_ in call.body.user_ids]
        self.book.own("end_user", ids)
        async with self.book.change() as change:
            known = [id_ for id_ in ids if await self.book.get("end_user", id_) is not None]
            if known:
                await change.update("end_user", known, {"blocked": blocked, **touched(call)})
            for id_ in dict.fromkeys(ids):
                if id_ not in known:
                    await change.insert("end_user", {**new_row(id_, call.caller.id), "blocked": blocked})
        rows = [await self._one(id_) for id_ in ids]
        return {
            "blocked_users" if blocked else "unblocked_users": [customer_row(row, self.desk.unspent) for row in rows]
        }

"""``gwcore spend`` and ``budget`` query a running gateway, see ``gwcore.remote``; ``gwcore ledger`` a stack file's store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from gwcore.remote import HERE, Url, ask, failed, say, table


def _verbs(name: str, text: str) -> typer.Typer:
    return typer.Typer(name=name, help=text, no_args_is_help=True, pretty_exceptions_enable=False)


spend = _verbs("spend", "Show what keys, teams, users, models or tags have spent, from a running gateway.")
budget = _verbs("budget", "List named budgets of a running gateway, or reset a budget.")
ledger = _verbs(
    "ledger", "Check, correct or back up the ledger in the store of a stack file. The gateway may run meanwhile."
)

From = Annotated[str | None, typer.Option("--from", help="First day, such as 2026-11-01.")]
To = Annotated[str | None, typer.Option("--to", help="Last day; today if only --from is given.")]
StackFile = Annotated[Path, typer.Argument(help="Path of the stack file.", metavar="STACK")]
_COUNTS = ("spend", "total_spend", "max_budget", "budget_duration", "api_requests", "failed_requests")


# ── spend ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@spend.command("keys")
def spend_keys(
    key: Annotated[str | None, typer.Argument(help="Only the key with this id.")] = None,
    first: From = None,
    last: To = None,
    url: Url = HERE,
) -> None:
    """Spend by key, the largest first."""
    rows = ask(url, "GET", "/spend/keys", key=key, start_date=first, end_date=last)
    table(rows, "token", "key_alias", *_COUNTS)


@spend.command("teams")
def spend_teams(
    team: Annotated[str | None, typer.Argument(help="Only the team with this id.")] = None,
    first: From = None,
    last: To = None,
    url: Url = HERE,
) -> None:
    """Spend by team."""
    rows = ask(url, "GET", "/spend/teams", team_id=team, start_date=first, end_date=last)
    table(rows, "team_id", "team_alias", *_COUNTS)


@spend.command("users")
def spend_users(
    user: Annotated[str | None, typer.Argument(help="Only the user with this id.")] = None,
    first: From = None,
    last: To = None,
    url: Url = HERE,
) -> None:
    """Spend by user."""
    rows = ask(url, "GET", "/spend/users", user_id=user, start_date=first, end_date=last)
    table(rows, "user_id", "user_alias", *_COUNTS)


@spend.command("models")
def spend_models(first: From = None, last: To = None, url: Url = HERE) -> None:
    """Spend by model; of the last 30 days if none are named."""
    table(ask(url, "GET", "/global/spend/models", start_date=first, end_date=last), "model", "total_spend")


@spend.command("tags")
def spend_tags(first: From = None, last: To = None, url: Url = HERE) -> None:
    """Spend by tag."""
    rows = ask(url, "GET", "/spend/tags", start_date=first, end_date=last)
    table(rows, "individual_request_tag", "log_count", "total_spend")


@spend.command("days")
def spend_days(first: From = None, last: To = None, url: Url = HERE) -> None:
    """Spend by day."""
    table(ask(url, "GET", "/global/spend/logs", start_date=first, end_date=last), "date", "spend")


@spend.command("logs")
def spend_logs(
    key: Annotated[str | None, typer.Option(help="Only attempts of the key with this id.")] = None,
    limit: Annotated[int, typer.Option(help="Number of attempts.", min=1, max=10_000)] = 50,
    url: Url = HERE,
) -> None:
    """List the latest upstream attempts with their cost."""
    rows = ask(url, "GET", "/spend/logs", api_key=key, limit=limit)
    table(rows, "startTime", "request_id", "attempt", "api_key", "model_id", "total_tokens", "spend", "status")


# ── budget ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@budget.command("list")
def list_budgets(url: Url = HERE) -> None:
    """List named budgets, to which keys and teams refer by budget_id."""
    rows = ask(url, "GET", "/budget/list")
    table(rows, "budget_id", "max_budget", "soft_budget", "budget_duration", "updated_at", "updated_by")


@budget.command("reset")
def reset_budget(
    scope: Annotated[
        str,
        typer.Argument(
            help="Scope of the budget: key, team, user, member, organisation, end_user, global, model, tag …"
        ),
    ],
    id_: Annotated[str, typer.Argument(help="Id within the scope; none for global.", metavar="[ID]")] = "",
    url: Url = HERE,
) -> None:
    """Reset the budgets of one id: its current periods begin at zero, now. Past spend stays in the ledger."""
    say(ask(url, "POST", "/budget/reset", {"scope": scope, "id": id_}))


# ── ledger ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@ledger.command("verify")
def verify_ledger(stack: StackFile) -> None:
    """Check that entries, accounts, reservations and daily sums agree, and that nothing is overdue. Exit code 1 if not."""
    from gwcore_budget.ledger.verify import verify

    report = _with_home(stack, verify)
    say(
        {
            "accounts": report.accounts,
            "holds": report.holds,
            "posted_nano": report.posted,
            "pending_nano": report.pending,
            "over_nano": report.over,
            "problems": report.problems,
            "notes": report.notes,
        }
    )
    if report.problems:
        raise typer.Exit(1)


@ledger.command("reconcile")
def reconcile_ledger(
    stack: StackFile,
    bills: Annotated[
        Path,
        typer.Argument(
            help="CSV file with the columns id (of a request, of an attempt as request:attempt, or the vendor's) and cost (dollars)."
        ),
    ],
) -> None:
    """Correct attempts that were posted at their worst case by what the vendor billed, once each; print the difference by day and model."""
    from gwcore_budget.ledger.reconcile import BadBill, read_bills, reconcile

    try:
        found = read_bills(bills.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError, BadBill) as error:
        raise failed(f"{bills}: {error}") from None
    say(_with_home(stack, lambda home: reconcile(home, found)).document())


@ledger.command("backup")
def backup_ledger(
    stack: StackFile, file: Annotated[Path, typer.Argument(help="Path of the copy; must not exist yet.")]
) -> None:
    """Copy a SQLite store to a file, consistently, while the gateway runs. For PostgreSQL use pg_dump."""
    try:
        _with_home(stack, lambda home: home.backup(file))
    except OSError as error:
        raise failed(f"{file}: {error}") from None


def _missing(file: str | None) -> bool:
    return file is not None and not Path(file).is_file()


async def _found(store: Any) -> None:
    """Raises ``typer.Exit`` if the store has no ledger, or that of an older release; nothing is created or changed."""
    from gwcore.sql import engine_of, revision
    from gwcore_budget.ledger.homes import LEDGER

    file = engine_of(store).url.database
    if store.scheme == "sqlite" and _missing(file):
        raise failed(f"{file}: no such file")
    found = await revision(store, LEDGER)
    if found is None:
        raise failed("the store has no ledger; the first start of a gateway with this store creates it")
    if found < LEDGER.head:
        raise failed(
            f"the ledger has the schema of an older release ({found}); starting a gateway of this release migrates it"
        )


def _with_home(stack: Path, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``work`` with the ledger's home of a stack file."""
    from gwcore.assemble import assemble
    from gwcore.catalog import Catalog
    from gwcore.errors import GatewayError
    from gwcore.resources import Resources
    from gwcore_budget.ledger.home import Conflict, StoreDown, Unfit
    from gwcore_budget.ledger.homes import home_of
    from gwcore_budget.plugin import BudgetPlugin

    if not stack.is_file():
        raise failed(f"{stack}: no such file")

    async def run() -> Any:
        made = assemble(stack, Catalog(), Resources(), os.environ)
        plugin = next((p.plugin for p in made.placed if isinstance(p.plugin, BudgetPlugin)), None)
        if plugin is None:
            raise failed(f"{stack}: its stack has no budget plugin")
        try:
            await _found(plugin.store)
            home = home_of(plugin.store, exports=plugin.config.export is not None)
            try:
                await home.open()
                return await work(home)
            finally:
                await home.aclose()
        finally:
            await made.lease.release()

    try:
        return asyncio.run(run())
    except GatewayError as error:
        raise failed(error.message) from None
    except StoreDown as error:
        raise failed(f"the ledger's store does not answer: {error}") from None
    except (Conflict, Unfit) as error:
        raise failed(f"the ledger's store rejects it: {error}") from None

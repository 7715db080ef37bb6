"""``gwcore import litellm CONFIG`` and ``gwcore import litellm-db``."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from gwcore.errors import GatewayError
from gwcore.remote import CREDENTIAL, HERE, Url, answer, client, failed, refusal
from gwcore_litellm.database import tables
from gwcore_litellm.findings import Status
from gwcore_litellm.importer import imported, variables
from gwcore_litellm.people import steps

DATABASE = "LITELLM_DATABASE_URL"

importing = typer.Typer(
    name="import",
    help="Convert the configuration and data of another gateway.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@importing.command("litellm")
def litellm(
    config: Annotated[Path, typer.Argument(help="Path of LiteLLM's config.yaml.", metavar="CONFIG")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the stack file; without it, standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also report the keys that behave the same (exact).")] = False,
) -> None:
    """Convert LiteLLM's config.yaml to a stack file, and report on standard error what became of each key: exact, approximate, manual, unsupported or error. Exit code 1 if there is an error, 2 without a stack file."""
    if out is not None and out.exists() and not force:
        typer.echo(f"{out} exists already; --force overwrites it", err=True)
        raise typer.Exit(2)
    try:
        text, findings = imported(config)
    except GatewayError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(2) from None
    for finding in findings:
        if every or finding.status is not Status.EXACT:
            typer.echo(str(finding), err=True)
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(out, text)
    counted = Counter(finding.status for finding in findings)
    summary = ", ".join(f"{counted[status]} {status}" for status in Status)
    needed = ", ".join(variables(text)) or "none"
    typer.echo(f"{summary}\nvariables of the environment that it needs: {needed}", err=True)
    if out is not None:
        typer.echo(f"next: gwcore check {out}", err=True)
    raise typer.Exit(1 if counted[Status.ERROR] else 0)


@importing.command("litellm-db")
def litellm_db(url: Url = HERE) -> None:
    """Copy organisations, teams, users, budgets and keys from LiteLLM's database to a running gateway; clients keep their keys.

    The variable LITELLM_DATABASE_URL names the database, which is only read.

    What exists already is left as it is, so the command can be repeated. Spend is not copied: budgets begin at zero.
    """
    database = os.environ.get(DATABASE)
    if not database:
        raise failed(f"{DATABASE} is not set: it names LiteLLM's database, postgresql://…")
    try:
        rows = tables(database)
    except GatewayError as error:
        raise failed(error.message) from None
    made: Counter[str] = Counter()
    there: Counter[str] = Counter()
    refused = 0
    with client(url) as asking:
        for step in steps(rows, datetime.now(UTC)):
            status, document = answer(asking, "POST", step.path, step.body)
            if status < HTTPStatus.BAD_REQUEST:
                made[step.kind] += 1
            elif status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise failed(f"{refusal(document)} This needs an admin's credential in {CREDENTIAL}")
            elif step.there and answer(asking, "GET", step.there[0], None, **step.there[1])[0] == HTTPStatus.OK:
                there[step.kind] += 1
            else:
                refused += 1
                name = "".join(sign if sign.isprintable() else "?" for sign in step.name)
                typer.echo(f"not taken over: {step.kind} {name}: {refusal(document)}", err=True)
    for kind in dict.fromkeys([*made, *there]):
        typer.echo(f"{kind}: {made[kind]} made, {there[kind]} there already")
    typer.echo(f"not taken over: {refused}. Spend is not: budgets begin anew")
    raise typer.Exit(1 if refused else 0)


def _write(out: Path, text: str) -> None:
    """Write with mode 0600: secrets may have been copied from LiteLLM's file."""
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        out.chmod(0o600)  # os.open keeps the mode of an existing file
        file.write(text)

"""``gwcore import litellm CONFIG``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from gwcore.errors import GatewayError
from gwcore_litellm.findings import Status
from gwcore_litellm.importer import imported, variables

importing = typer.Typer(
    name="import", help="Make a stack file of another gateway's.", no_args_is_help=True, pretty_exceptions_enable=False
)


@importing.callback()
def _from() -> None:
    pass


@importing.command("litellm")
def litellm(
    config: Annotated[Path, typer.Argument(help="LiteLLM's config.yaml.", metavar="CONFIG")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the stack file here; else to standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Tell of keys that mean the same here, too.")] = False,
) -> None:
    """Print what becomes of each key: exact, approximate, manual, unsupported or error. Exit code 1 if there is an error."""
    if out is not None and out.exists() and not force:
        typer.echo(f"{out} is there; --force writes over it", err=True)
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


def _write(out: Path, text: str) -> None:
    """For its owner alone: what was written out in the file that it is made of may be secret."""
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)

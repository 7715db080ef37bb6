"""``gwcore cache``: the admin API of a running gateway from the command line, see ``gwcore.remote``."""

from __future__ import annotations

from typing import Annotated

import typer

from gwcore.remote import HERE, Url, ask, say

cache = typer.Typer(
    name="cache", help="The cache of a running gateway.", no_args_is_help=True, pretty_exceptions_enable=False
)


@cache.command()
def purge(
    key: Annotated[list[str] | None, typer.Option(help="Key of an entry; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model, as clients wrote it.")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag of the calls that were answered.")] = None,
    tenant: Annotated[str | None, typer.Option(help="A scope, such as organisation:acme.")] = None,
    everything: Annotated[bool, typer.Option(help="All of it.")] = False,
    url: Url = HERE,
) -> None:
    """Delete the cached answers that match all given options."""
    body = {"keys": key, "model": model, "tag": tag, "tenant": tenant, "everything": everything}
    say(ask(url, "POST", "/cache/purge", body))


@cache.command()
def info(url: Url = HERE) -> None:
    """Show the counts of the worker that answers."""
    say(ask(url, "GET", "/cache/info"))

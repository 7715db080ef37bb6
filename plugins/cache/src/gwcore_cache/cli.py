"""``gwcore cache``: the admin API of a running gateway from the command line, see ``gwcore.remote``."""

from __future__ import annotations

from typing import Annotated

import typer

from gwcore.remote import HERE, Url, ask, say

cache = typer.Typer(
    name="cache",
    help="Purge the cache of a running gateway, or show its counts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@cache.command()
def purge(
    key: Annotated[list[str] | None, typer.Option(help="Key of an entry, in hexadecimal; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Requested model, as clients wrote it.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag of the calls whose answers are stored.")] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Scope that shares the answers, such as organisation:acme or key:ID.")
    ] = None,
    everything: Annotated[bool, typer.Option(help="Delete all entries.")] = False,
    url: Url = HERE,
) -> None:
    """Delete the cached answers that match all given options; at least one is needed."""
    body = {"keys": key, "model": model, "tag": tag, "tenant": tenant, "everything": everything}
    say(ask(url, "POST", "/cache/purge", body))


@cache.command()
def info(url: Url = HERE) -> None:
    """Show hits, misses and other counts of the worker that answers."""
    say(ask(url, "GET", "/cache/info"))

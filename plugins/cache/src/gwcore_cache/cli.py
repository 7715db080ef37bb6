"""``gwcore cache``: the admin API of a running gateway from the command line.

The address is ``--url`` or ``GWCORE_URL``; the credential is ``GWCORE_ADMIN_KEY``: never an argument, which other users of
the machine could read.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

Url = Annotated[str, typer.Option(envvar="GWCORE_URL", help="Address of the gateway.")]
HERE = "http://127.0.0.1:4000"
CREDENTIAL = "GWCORE_ADMIN_KEY"

cache = typer.Typer(
    name="cache", help="The cache of a running gateway.", no_args_is_help=True, pretty_exceptions_enable=False
)


def _ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    """One request; its answer is printed, a refusal is a sentence and exit code 1."""
    import httpx2
    import orjson

    key = os.environ.get(CREDENTIAL)
    if not key:
        raise _failed(f"{CREDENTIAL} is not set")
    try:
        answer = httpx2.request(method, url.rstrip("/") + path, json=body, headers={"authorization": f"Bearer {key}"})
        document = answer.json()
    except httpx2.HTTPError as error:
        raise _failed(f"{url} cannot be reached: {type(error).__name__}") from None
    except ValueError:
        raise _failed(f"{url} is no gateway: it answered {answer.status_code} without JSON") from None
    if answer.status_code >= 400:
        raise _failed(str(document.get("error", {}).get("message", document)))
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def _failed(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(1)


@cache.command()
def purge(
    key: Annotated[list[str] | None, typer.Option(help="Key of an entry; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model, as clients wrote it.")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag of the calls that were answered.")] = None,
    tenant: Annotated[str | None, typer.Option(help="A scope, such as organisation:acme.")] = None,
    everything: Annotated[bool, typer.Option(help="All of it.")] = False,
    url: Url = HERE,
) -> None:
    """Forget answers: those that fit all that is given."""
    _ask(
        url,
        "POST",
        "/cache/purge",
        {"keys": key, "model": model, "tag": tag, "tenant": tenant, "everything": everything},
    )


@cache.command()
def info(url: Url = HERE) -> None:
    """Counts of the worker that answers."""
    _ask(url, "GET", "/cache/info")

"""The admin API of a running gateway, for verbs of the command line: one request, and how answers are printed.

The address is ``--url`` or ``GWCORE_URL``; the credential is ``GWCORE_ADMIN_KEY`` (or a virtual key that may): never an
argument, which other users of the machine could read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import httpx2
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

HERE = "http://127.0.0.1:4000"
CREDENTIAL = "GWCORE_ADMIN_KEY"
Url = Annotated[
    str,
    typer.Option(
        envvar="GWCORE_URL", help=f"Address of the gateway. The credential is taken from the variable {CREDENTIAL}."
    ),
]
_LOCAL = ("all://localhost", "all://127.0.0.1", "all://[::1]")


def ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Any:
    """One request to the admin API; ``None`` is left out. A refusal is a sentence and exit code 1."""
    with client(url) as asking:
        status, document = answer(asking, method, path, body, **query)
    if status >= 400:
        raise failed(refusal(document))
    return document


def client(url: str) -> httpx2.Client:
    """For several requests, with the credential of the environment; without one a sentence and exit code 1.

    Proxies and certificates are as the environment says (``HTTPS_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``), but what this machine
    serves is asked without a proxy, which could not reach it and would have read the credential.
    """
    key = os.environ.get(CREDENTIAL)
    if not key:
        raise failed(f"{CREDENTIAL} is not set: it holds the admin key, or a virtual key")
    try:
        # a proxy's library that is not installed, and a file of certificates that is not there, are told here
        made = httpx2.Client(
            base_url=url.rstrip("/"), headers={"authorization": f"Bearer {key}"}, mounts=dict.fromkeys(_LOCAL)
        )
    except (httpx2.InvalidURL, ValueError, OSError, ImportError) as error:
        raise failed(f"{url} cannot be used: {error}") from None
    if made.base_url.scheme not in {"http", "https"}:
        raise failed(f"{url} is not the address of a gateway: write http://host:port, in --url or GWCORE_URL")
    return made


def answer(
    asking: httpx2.Client, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any
) -> tuple[int, Any]:
    """Status and document of one request, accepted or not; a sentence and exit code 1 if no gateway answers."""
    wanted = {name: value for name, value in query.items() if value is not None}
    sent = None if body is None else {name: value for name, value in body.items() if value is not None}
    try:
        found = asking.request(method, path, json=sent, params=wanted)
        return found.status_code, found.json()
    except httpx2.HTTPError as error:
        why = str(error) or type(error).__name__
        raise failed(f"{asking.base_url} cannot be reached: {why}; --url or GWCORE_URL says where it is") from None
    except ValueError:
        raise failed(f"{asking.base_url} is not a gateway: it answered {found.status_code} without JSON") from None


def refusal(document: Any) -> str:
    """The message of an error answer."""
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("message", document) if isinstance(error, dict) else document)


def failed(message: str) -> typer.Exit:
    """A sentence on stderr; raise what is returned."""
    typer.echo(message, err=True)
    return typer.Exit(1)


def say(document: Any) -> None:
    """Print JSON."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def table(rows: Iterable[Mapping[str, Any]], *columns: str) -> None:
    """Print members of rows as a table, whole: what is shown here is what other commands take."""
    made = Table(*columns, box=None, header_style="bold")
    for row in rows:
        made.add_row(*(escape(_said(row.get(column))) for column in columns))
    # a line is as long as what it says, and the terminal wraps it: else ids end in an ellipsis
    Console(highlight=False, soft_wrap=True, width=10_000).print(made)


def _said(value: Any) -> str:
    if isinstance(value, float):  # money: never 3.5e-05
        return f"{value:.9f}".rstrip("0").rstrip(".")
    text = "" if value in (None, [], {}) else str(value)
    if text.isprintable():
        return text
    # names that clients type: one must not write on this terminal what it likes, nor break a line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

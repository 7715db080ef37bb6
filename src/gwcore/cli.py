"""``gwcore run · check · explain · plugins · schema · new``. Users' mistakes get a sentence, never a traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gwcore.errors import AssemblyError, GatewayError

app = typer.Typer(
    name="gwcore",
    help="LLM gateway: one endpoint in front of many providers, configured by a stack file (YAML).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
new = typer.Typer(help="Create a distribution of your own from a template.", no_args_is_help=True)
app.add_typer(new, name="new")

StackArg = Annotated[Path, typer.Argument(help="Path of the stack file.", metavar="STACK")]


def _tell_version(wanted: bool) -> None:
    if wanted:
        from platform import python_version

        from gwcore import __version__

        typer.echo(f"gwcore {__version__}, Python {python_version()}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the versions and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _fail(error: GatewayError | str) -> typer.Exit:
    message = error if isinstance(error, str) else error.message
    typer.echo(message, err=True)
    return typer.Exit(1)


def _existing(stack: Path) -> Path:
    if not stack.is_file():
        raise _fail(f"{stack}: no such file")
    return stack


@app.command()
def run(
    stack: StackArg,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="TCP port, instead of server.port; 0 takes a free one.", min=0, max=65535)
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of worker processes that share the port.", min=1)] = 1,
    watch: Annotated[bool, typer.Option("--watch", help="Reload when the stack file changes, as SIGHUP does.")] = False,
) -> None:
    """Run the gateway. SIGHUP reloads the stack file; SIGTERM finishes the calls in flight, then exits."""
    from gwcore.serving import serve_stack

    try:
        code = serve_stack(_existing(stack), host=host, port=port, workers=workers, watch=watch)
    except GatewayError as error:
        raise _fail(error) from None
    raise typer.Exit(code)


@app.command()
def check(stack: StackArg) -> None:
    """Check a stack file without starting: print its plugins in the order in which they run, or every error with its line and fix."""
    from gwcore.assemble import assemble
    from gwcore.catalog import Catalog
    from gwcore.resources import Resources
    from gwcore.serving import servable
    from gwcore.show import rings

    try:
        servable(_existing(stack))
        made = assemble(_existing(stack), Catalog(), Resources(), os.environ)
    except AssemblyError as error:
        raise _fail(error) from None
    rings(made, stack)


@app.command()
def explain(
    stack: StackArg,
    request: Annotated[Path, typer.Option("--request", "-r", help="File with the JSON body of the request.")],
    dialect: Annotated[
        str, typer.Option(help="Dialect (API format) of the body; `gwcore plugins` lists them.")
    ] = "openai.chat",
    operation: Annotated[str, typer.Option(help="Operation, such as chat or embeddings.")] = "chat",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", help='Request header of the client, as "name: value"; may be repeated.'),
    ] = None,
) -> None:
    """Show what the gateway would do with one request: each plugin's decision, the target, the price, and the upstream request. Sends nothing."""
    from gwcore.show import walk

    if not request.is_file():
        raise _fail(f"{request}: no such file")
    try:
        walk(_existing(stack), request.read_bytes(), dialect, operation, header or ())
    except GatewayError as error:
        raise _fail(error) from None


@app.command()
def plugins() -> None:
    """List the installed plugins with their distributions, and the known providers and dialects."""
    from gwcore.catalog import Catalog
    from gwcore.show import installed

    try:
        installed(Catalog())
    except GatewayError as error:
        raise _fail(error) from None


@app.command()
def schema() -> None:
    """Print the JSON Schema of stack files with the installed plugins, for completion in an editor."""
    import orjson

    from gwcore.catalog import Catalog
    from gwcore.config import json_schema

    catalog = Catalog()
    catalog.load_all()
    sys.stdout.write(orjson.dumps(json_schema(catalog), option=orjson.OPT_INDENT_2).decode() + "\n")


@new.command("plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Its word in the stack file: lower case, digits, underscores.")],
    into: Annotated[Path, typer.Option(help="Folder to create it in.")] = Path(),
) -> None:
    """Create a plugin: a Python distribution with tests that pass."""
    from gwcore.template import create_plugin

    try:
        folder = create_plugin(name, into)
    except GatewayError as error:
        raise _fail(error) from None
    typer.echo(f"{folder}: pip install -e {folder} pytest pytest-asyncio && python -m pytest {folder}")


@new.command("provider")
def new_provider(
    name: Annotated[str, typer.Argument(help="Its word in the stack file: lower case, digits, underscores.")],
    into: Annotated[Path, typer.Option(help="Folder to create it in.")] = Path(),
) -> None:
    """Create a provider: a Python distribution with tests that pass."""
    from gwcore.template import create_provider

    try:
        folder = create_provider(name, into)
    except GatewayError as error:
        raise _fail(error) from None
    typer.echo(f"{folder}: pip install -e {folder} pytest pytest-asyncio && python -m pytest {folder}")


def main(arguments: list[str] | None = None) -> Any:
    """The ``gwcore`` command. Verbs of installed distributions are loaded only where none of the core's is meant."""
    if arguments is None:  # a process of its own: what it prints is the verb's, and what it logs goes to stderr
        from gwcore import log

        log.setup()
    given = sys.argv[1:] if arguments is None else arguments
    core = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    if not given or given[0] not in core | {"new", "--version"}:
        from gwcore.catalog import VERBS, Catalog

        catalog = Catalog()
        failed = catalog.load_all()
        for verbs in catalog.commands():
            app.add_typer(verbs)
        there = {verbs.info.name for verbs in catalog.commands()}
        if given and given[0] in VERBS and given[0] not in there:
            ours = VERBS[given[0]]
            broken = [e for word, e in failed.items() if catalog.installed()[word][0] == ours]
            mend = (
                f"which cannot be loaded: {type(broken[0]).__name__}: {broken[0]}" if broken else f"pip install {ours}"
            )
            typer.echo(f"gwcore {given[0]} comes with {ours}{', ' if broken else '; '}{mend}", err=True)
            sys.exit(2)
    return app(given, prog_name="gwcore")

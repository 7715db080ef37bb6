"""Output of ``check``, ``explain`` and ``plugins``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gwcore.aim import aim, read_tags
from gwcore.assemble import assemble
from gwcore.call import Attempt, Call
from gwcore.catalog import Catalog
from gwcore.dialect import Dialect, Route
from gwcore.dispatch import build
from gwcore.errors import BadRequest
from gwcore.prices import MILLION, PriceCard
from gwcore.provider import Upstream
from gwcore.reply import Reply
from gwcore.resources import Resources
from gwcore.stack import Placed, Stack
from gwcore.units import DOLLAR
from gwcore.usage import BUCKETS
from gwcore.wire.document import parse
from gwcore.wire.transport import Request

console = Console(highlight=False, soft_wrap=True, width=10_000)  # the terminal wraps; tables are never truncated
_OPEN_HEADERS = frozenset({"content-type", "accept", "accept-encoding", "user-agent", "anthropic-version"})


def rings(stack: Stack, source: Path) -> None:
    """Print both rings, outermost first, the taps, the upstreams, and hints about possible mistakes."""
    say = console.print
    say(f"{escape(str(source))}: sound")
    if stack.asgi:
        say("[bold]around everything[/]  " + escape(", ".join(wrap.name for wrap in stack.asgi)))
    say("[bold]once per call[/]")
    layers = [p for p in stack.placed if "call" in p.rings]
    for p in layers:
        say(f"  {p.name}" + (f"  when {p.when}" if p.when else ""), markup=False)
    if not layers:
        say("  (nothing: an open gateway)")
    router = next((p.name for p in stack.placed if "router" in p.rings), "first target")
    say(f"[bold]router[/]  {router}")
    say("[bold]once per attempt[/]")
    for p in stack.placed:
        if "attempt" in p.rings:
            say(f"  {p.name}" + (f"  when {p.when}" if p.when else ""), markup=False)
    say("  upstream")
    if taps := [p.name + (f" when {p.when}" if p.when else "") for p in stack.placed if p.watching]:
        say("[bold]watching[/]  " + escape(", ".join(taps)))
    table = Table("upstream", "provider", "address", box=None, header_style="bold")
    for upstream in stack.upstreams.values():
        base = f"{upstream.origin.scheme}://{upstream.origin.authority}{upstream.base_path}"
        table.add_row(upstream.name, upstream.provider.name, base)
    say(table)
    _doubts(stack)


def _doubts(stack: Stack) -> None:
    """Print settings that are valid, but possibly not intended."""
    say = console.print
    for upstream in stack.upstreams.values():
        if upstream.provider.env_key and not upstream.headers:
            word = f"${{{upstream.provider.env_key}}}"
            say(f"[bold]no key[/]  {upstream.name}: its vendor usually takes one (api_key: {escape(word)})")
        if doubt := _address_doubt(upstream, stack.dispatch.dialects):
            say(f"[bold]address[/]  {upstream.name}: {escape(doubt)}")
    if unpriced := stack.prices.warm(stack.models.targets()):
        say("[bold]unpriced[/]  " + escape(", ".join(unpriced)) + "  (set upstreams.<name>.prices)")


def _address_doubt(upstream: Upstream, dialects: Iterable[str]) -> str | None:
    """A hint if ``base_url`` contains more or less of the path than the provider expects, with the resulting URL."""
    base = upstream.base_path
    usual = "/" + (upstream.provider.base_url or "").partition("://")[2].partition("/")[2]
    for dialect in dialects:
        # some providers have the operation in the path, as Gemini does
        found = upstream.provider.address(upstream, dialect, "chat", "MODEL", {"verb": "generateContent"}, stream=False)
        if found is None:
            continue
        path = found[0].partition("?")[0]
        added = path.removeprefix(base)
        asked = f"asks {upstream.origin.scheme}://{upstream.origin.authority}{path}"
        parts = added.split("/")
        for twice in ("/".join(parts[:end]) for end in range(len(parts), 1, -1)):
            if base.endswith(twice):
                return f"{asked}; leave {twice} out of base_url"
        if not base and usual != "/" and not added.startswith(usual):
            return f"{asked}; base_url usually ends in {usual}"
    return None


def walk(source: Path, body: bytes, dialect_name: str, operation: str, headers: Sequence[str] = ()) -> None:
    """Print how a request is processed, step by step. ``headers`` are additional client headers, as ``name: value``.

    Raises:
        GatewayError: as when serving the request.
    """
    catalog = Catalog()
    stack = assemble(source, catalog, Resources(), os.environ)
    dialect, route = _route(catalog, dialect_name, operation)
    document = parse(body, unique=dialect.unique, max_depth=stack.server.json_depth)
    call = Call(
        id="gw-explain",
        dialect=dialect,
        route=route,
        reply=Reply(_nowhere),
        headers=[(b"content-type", b"application/json"), *map(_header, headers)],
        raw=body,
        document=document,
        model=dialect.model_of(route, document, {})
        if route.model == "body" or (route.model == "optional" and document.get("model"))
        else None,
        stream=bool(document.get("stream")) or route.stream == "always",
    )
    say = console.print
    say(
        f"dialect    {dialect.name}\noperation  {call.operation}\nmodel      {call.model}\nstream     {call.stream}",
        markup=False,
    )
    read_tags(call)
    for p in stack.placed:
        if p.plugin.selects:
            say(_told(p, call), markup=False)
    aim(stack.models, call)
    say("targets    " + ", then ".join(map(str, call.targets)), markup=False)
    for target in call.targets:
        card = stack.prices.card(target)
        say(f"price      {target}: {_price(card)}", markup=False)
    for p in stack.placed:
        if not (p.watching or p.plugin.selects):
            say(_told(p, call), markup=False)
    request, translation = build(Attempt(call, call.targets[0]), stack.dispatch.demand, stack.dispatch.dialects)
    if translation is not None:
        dropped = translation.dropped().decode() or "nothing"
        say(f"translated to {translation.upstream.name}; dropped: {dropped}", markup=False)
    _show_request(request)


def _header(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not (name.strip() and colon):
        raise BadRequest(f"{name[:40]!r} is not a header: write name: value")
    return name.strip().lower().encode(), value.strip().encode("latin-1", "replace")


def _told(placed: Placed, call: Call) -> str:
    told = (placed.plugin.explain(call) or "").replace("\n", "\n" + " " * 13)
    return f"{'/'.join(placed.rings) or 'none':10} {placed.name}" + (f": {told}" if told else "")


def _price(card: PriceCard | None) -> str:
    """Prices that apply from the first token on: per million tokens, other units per piece."""
    if card is None or not card.prices:
        return "unpriced"
    told = []
    for name, steps in card.prices.items():
        dollars = Decimal(steps[0][1]) / DOLLAR
        told.append(f"{name} ${dollars:f}/M" if name in BUCKETS else f"{name} ${(dollars / MILLION).normalize():f}/1")
    free = not any(price for steps in card.prices.values() for _, price in steps)
    return f"{'free' if free else ', '.join(told)}  ({card.source} {card.version})"


def _route(catalog: Catalog, dialect_name: str, operation: str) -> tuple[Dialect, Route]:
    dialects = {d.name: d for d in catalog.dialects()}
    dialect = dialects.get(dialect_name)
    if dialect is None:
        raise BadRequest(f"no dialect {dialect_name!r}; known are {', '.join(dialects)}")
    for route in dialect.routes:
        if route.operation == operation and route.body == "json" and "{" not in route.path:
            return dialect, route
    raise BadRequest(f"{dialect_name} has no JSON operation {operation!r}")


def _show_request(request: Request) -> None:
    say = console.print
    say(f"\n{request.method} {request.origin.scheme}://{request.origin.authority}{request.target}", markup=False)
    for name, value in request.headers:
        text = name.decode("latin-1")
        # an allow-list: show only headers known to be harmless
        say(f"{text}: {value.decode('latin-1') if text in _OPEN_HEADERS else '***'}", markup=False)
    say("")
    try:
        console.print_json(orjson.dumps(orjson.loads(request.body)).decode())
    except ValueError:
        say(f"({len(request.body)} bytes)")
    say("\nnothing was sent", markup=False)


async def _nowhere(_message: object) -> None:
    return None


def installed(catalog: Catalog) -> None:
    """Print entry points, plugins, providers, dialects, and what cannot be loaded."""
    table = Table("entry point", "distribution", "version", box=None, header_style="bold")
    for name, (distribution, version) in catalog.installed().items():
        table.add_row(name, distribution, version)
    console.print(table)
    failed = catalog.load_all()
    console.print("[bold]plugins[/]    " + (", ".join(sorted(catalog.plugin_classes())) or "none"))
    console.print("[bold]providers[/]  " + ", ".join(catalog.provider_names()))
    console.print("[bold]dialects[/]   " + ", ".join(d.name for d in catalog.dialects()))
    for name, error in failed.items():
        hint = catalog.install_hint(name) if isinstance(error, ImportError) else None
        mend = f"; pip install {hint}" if hint else ""
        console.print(f"{name}: cannot be loaded: {type(error).__name__}: {error}{mend}", markup=False)

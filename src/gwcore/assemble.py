"""Stack file + catalog → ``Stack``. Reads, validates, constructs, checks order and compiles; starts nothing."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pluggy
from pydantic import SecretStr

from gwcore.aim import Permits, aiming, known
from gwcore.call import Attempt, Call
from gwcore.catalog import Catalog
from gwcore.config import Entry, StackConfig, UpstreamConfig, read
from gwcore.detached import Detached
from gwcore.dialect import Dialect, Route
from gwcore.dispatch import Dispatch, first_target
from gwcore.errors import BadConfig, GatewayError, MissingPort, OrderViolation
from gwcore.hookspecs import EVENTS, PROJECT, Watching, check_taps
from gwcore.ingress import Ingress
from gwcore.listing import Listing
from gwcore.load import Load
from gwcore.models import Models
from gwcore.plugin import Demand, Plugin, Setup, fault_of, overrides
from gwcore.ports import Authority, Sample
from gwcore.prices import Override, Prices
from gwcore.provider import Preparing, Upstream
from gwcore.redact import secrets_of
from gwcore.resources import Lease, Resources
from gwcore.service import Layer, Service, compose, wrap
from gwcore.stack import Middleware, Placed, Stack
from gwcore.stackfile import Source, StackErrors, StackSource, load
from gwcore.taps import Tap, Taps, faults
from gwcore.when import Condition, only_when, tap_when
from gwcore.wire.transport import Origin
from gwcore.workers import Workers

if TYPE_CHECKING:
    from gwcore.adminapi import AdminApp


def assemble(
    source: Source, catalog: Catalog, resources: Resources, env: Mapping[str, str], lease: Lease | None = None
) -> Stack:
    """Compile a stack.

    Args:
        source: path of the stack file, its text, or an already loaded source.
        catalog: what is installed.
        resources: the pool of stores and transports.
        env: for ``${VAR}``.
        lease: holds the resources acquired; pass one to be able to release them if this raises.

    Raises:
        gwcore.stackfile.StackErrors: with every problem of the file.
        AssemblyError: a problem that only construction can find.
    """
    text = load(source)
    config = read(text, env=env, registry=catalog)
    lease = lease or Lease(resources)
    _addressed(text, config, catalog)
    upstreams = {name: _upstream(name, entry, catalog, lease) for name, entry in config.upstreams.items()}
    models = Models(config.models, upstreams)
    digest = hashlib.sha256(text.text.encode()).hexdigest()[:12]
    prices = Prices(_own_prices(config), catalog.price, digest)
    dialects = {dialect.name: dialect for dialect in catalog.dialects()}
    detached = Detached()
    permits: list[Callable[[Call, str], bool]] = []
    placed, ports = _place(
        config, catalog, lease, models, prices=prices, dialects=dialects, detached=detached, permits=permits
    )
    detached.taps = taps = _taps(placed)
    priced = config.server.cost != "auto" or any(p.plugin.priced for p in placed)
    demand = max((p.plugin.demand for p in placed), default=Demand.NOTHING)
    dispatch = Dispatch(
        max(demand, Demand.USAGE) if priced else demand,
        taps,
        prices if priced else None,
        tell_cost=config.server.cost == "stream",
        dialects=dialects,
    )
    identify = _identifying(placed)
    routes, answers = _answers(placed, [*identify, *_throttling(placed)])
    return Stack(
        service=_pipeline(placed, models, dispatch, permits),
        listing=compose(identify, Listing(models, prices, catalog.models, placed, permits)),
        answers=answers,
        ingress=Ingress(catalog.dialects(), routes),
        models=models,
        upstreams=upstreams,
        placed=placed,
        taps=taps,
        server=config.server,
        dispatch=dispatch,
        lease=lease,
        admin=_admin(placed, ports),
        detached=detached,
        asgi=tuple(_middleware(entry) for entry in config.asgi),
        digest=digest,
        prices=prices,
    )


def _own_prices(config: StackConfig) -> dict[str, dict[str, Override]]:
    return {
        name: {model: entry.override() for model, entry in upstream.prices.items()}
        for name, upstream in config.upstreams.items()
    }


def _addressed(source: StackSource, config: StackConfig, catalog: Catalog) -> None:
    """Check that every upstream has an address: its own, or its provider's default."""
    bare = [
        source.problem(
            ("upstreams", name, "provider"),
            f"{upstream.provider} has no address of its own",
            "add base_url: the address that you would give the vendor's SDK",
        )
        for name, upstream in config.upstreams.items()
        if not upstream.base_url and not catalog.provider(upstream.provider).base_url
    ]
    if bare:
        raise StackErrors(bare)


def _upstream(name: str, config: UpstreamConfig, catalog: Catalog, lease: Lease) -> Upstream:
    provider = catalog.provider(config.provider)
    base_url = config.base_url or (provider.base_url or "").format(config.options)
    try:
        origin = Origin.of(base_url)
    except ValueError as error:
        raise BadConfig(f"upstreams.{name}.base_url: {error}") from None
    fixed = [(k.lower().encode(), v.get_secret_value().encode("latin-1")) for k, v in config.headers.items()]
    gateway = lease.transport(config.tls, config.proxy, http2=config.http2)
    path = "/" + base_url.split("://", 1)[1].partition("/")[2]

    def upstream(secret: SecretStr | None, number: int = 0, weight: int = 1) -> Upstream:
        key = secret.get_secret_value() if secret else None
        made = provider.transport(gateway, key, config.options)
        return Upstream(
            name=name,
            provider=provider,
            origin=origin,
            base_path=path.rstrip("/"),
            headers=[*provider.credential(key, config.options), *fixed],
            timeouts=config.timeouts,
            transport=lease.before(gateway, made, (provider.name, key, config.options)),
            options=config.options,
            models=tuple(config.models),
            prepare=provider.prepare if isinstance(provider, Preparing) else None,
            key=number,
            weight=weight,
            dialect=config.dialect,
        )

    if not config.api_keys:
        return upstream(config.api_key)
    keys = tuple(upstream(entry.key, number, entry.weight) for number, entry in enumerate(config.api_keys, 1))
    return replace(keys[0], keys=keys)


def _place(
    config: StackConfig,
    catalog: Catalog,
    lease: Lease,
    models: Models,
    *,
    prices: Prices,
    dialects: Mapping[str, Dialect],
    detached: Detached,
    permits: list[Callable[[Call, str], bool]],
) -> tuple[tuple[Placed, ...], dict[type, object]]:
    ports: dict[type, object] = {}
    kinds = [catalog.plugin(entry.name) for entry in (*config.stack, *config.watch)]
    policies = {kind.name: kind.Policy for kind in kinds if kind.Policy is not None}
    placed: list[Placed] = []
    workers = Workers.here()
    setup_of = partial(
        Setup,
        lease=lease,
        ports=ports,
        prices=prices,
        models=models,
        workers=workers,
        policies=policies,
        secrets=secrets_of(config),
        readings=partial(_readings, lease.load, placed),
        dialects=dialects,
        detached=detached,
        permits=permits,
    )
    for entry, watching in [(e, False) for e in config.stack] + [(e, True) for e in config.watch]:
        kind = catalog.plugin(entry.name)
        missing = [port.__name__ for port in kind.requires if port not in ports]
        if missing:
            raise MissingPort(
                f"{entry.name} requires {', '.join(missing)}; put a plugin that offers it before it in stack"
            )
        setup = setup_of(entry.name, stores=dict(config.stores))
        plugin = _made(kind, entry, setup)
        if overrides(plugin, "visible"):
            permits.append(plugin.visible)
        ports.update((port, plugin) for port in kind.offers)
        placed.append(Placed(entry.name, plugin, _condition(entry), watching))
    _check_order([p for p in placed if not p.watching])
    for p in placed:
        if p.watching and p.rings:
            raise OrderViolation(f"{p.name} handles calls: list it under stack, not under watch")
    return tuple(placed), ports


def _made(kind: type[Plugin], entry: Entry, setup: Setup) -> Plugin:
    try:
        return kind(entry.config, setup)
    except GatewayError:
        raise
    except Exception as error:
        raise fault_of(entry.name, kind.__module__, error, "cannot be made") from error


def _readings(load: Load, placed: list[Placed]) -> Iterator[Sample]:
    yield from load.samples()
    for p in placed:
        try:
            yield from p.plugin.metrics()
        except Exception:  # one plugin's fault must not hide the others' samples
            faults[p.name] += 1


def _admin(placed: tuple[Placed, ...], ports: dict[type, object]) -> AdminApp | None:
    """The admin API; ``None`` without an Authority: nothing is served unless something decides who may use it."""
    authority = ports.get(Authority)
    if authority is None:
        return None
    from gwcore.adminapi import AdminApp  # noqa: PLC0415 - only where somebody decides who may use it

    return AdminApp(((p.name, route) for p in placed for route in p.plugin.admin_routes()), authority)  # type: ignore[arg-type]  # the mapping pairs each port with its own implementation


def _identifying(placed: tuple[Placed, ...]) -> list[Layer[Call]]:
    """The identifying layer, followed by a check that it set a principal, in case one of its paths forgets to."""
    return [layer for p in placed if p.plugin.identifies for layer in (p.plugin.call_layer, known(p.name))]


def _throttling(placed: tuple[Placed, ...]) -> list[Layer[Call]]:
    """The layers of throttling plugins, in pipeline order."""
    return [only_when(p.when, p.plugin.call_layer, _itself) for p in placed if p.plugin.throttles]


def _answers(
    placed: tuple[Placed, ...], before: Sequence[Layer[Call]]
) -> tuple[list[tuple[Dialect, Route]], dict[Route, Service[Call]]]:
    """The plugins' client routes, and the service for each, wrapped in the identifying and throttling layers."""
    routes: list[tuple[Dialect, Route]] = []
    owners: dict[Route, Placed] = {}
    for p in placed:
        for dialect, written in p.plugin.client_routes():
            route = replace(written, local=True)
            if owners.setdefault(route, p) is not p:
                raise BadConfig(
                    f"{route.method} {route.path} is answered by {owners[route].name} and {p.name}: keep one"
                )
            routes.append((dialect, route))
    return routes, {route: compose(before, p.plugin.answer) for route, p in owners.items()}


def _check_order(placed: list[Placed]) -> None:
    names = [p.name for p in placed]
    if relied := [p.name for p in placed if p.plugin.unconditional and p.when is not None]:
        raise OrderViolation(f"{relied[0]} must apply to every call: remove its when")
    for at, p in enumerate(placed):
        for outer in p.plugin.inside:
            if outer in names and outer not in names[:at]:
                raise OrderViolation(f"{p.name} must come after {outer} in stack")
    identify = [(at, p) for at, p in enumerate(placed) if p.plugin.identifies]
    for at, p in identify:
        if at > 0 or p.when is not None:
            raise OrderViolation(
                f"{p.name} authenticates callers: it must be the first entry of stack, only once, and without when"
            )
    for at, p in enumerate(placed):
        before = [o.name for o in placed[:at] if "call" in o.rings and not (o.plugin.selects or o.plugin.identifies)]
        if p.plugin.selects and before:
            raise OrderViolation(f"{p.name} decides which model a call is for: put it before {before[0]} in stack")
    routers = [p.name for p in placed if "router" in p.rings]
    if len(routers) > 1:
        raise OrderViolation(f"stack may have one router only, and has: {', '.join(routers)}")


def _pipeline(placed: tuple[Placed, ...], models: Models, dispatch: Dispatch, permits: Permits) -> Service[Call]:
    attempt_layers: list[Layer[Attempt]] = []
    selecting: list[Layer[Call]] = []
    call_layers: list[Layer[Call]] = [aiming(models, permits)]
    router = first_target
    for p in placed:
        plugin = p.plugin
        if "attempt" in p.rings:
            attempt_layers.append(only_when(p.when, plugin.attempt_layer, _call_of))
        if "call" in p.rings:
            outer = only_when(p.when, plugin.call_layer, _itself)
            if plugin.identifies or plugin.selects:
                selecting.append(outer)  # before aiming: an unauthenticated client must learn no model names
                if plugin.identifies:
                    selecting.append(known(p.name))
            else:
                call_layers.append(outer)
        if "router" in p.rings:
            assert plugin.router is not None
            router = plugin.router
    return compose([*selecting, *call_layers], wrap(router, compose(attempt_layers, dispatch)))


def _call_of(attempt: Attempt) -> Call:
    return attempt.call


def _itself(call: Call) -> Call:
    return call


def _condition(entry: Entry) -> Condition | None:
    when = entry.when
    return Condition(when.models, when.operations, when.dialects, when.tags) if when else None


def _taps(placed: tuple[Placed, ...]) -> Taps:
    """Compile the watching hooks: pluggy orders them, the request path iterates over tuples."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Watching)
    at: dict[int, Placed] = {}
    # pluggy calls the last registered first
    for p in reversed(placed):
        at[id(p.plugin)] = p
        check_taps(p.plugin)
        manager.register(p.plugin)

    def compiled(event: str) -> tuple[Tap, ...]:
        taps = []
        for impl in reversed(getattr(manager.hook, event).get_hookimpls()):
            p = at[id(impl.plugin)]
            taps.append((p.name, tap_when(p.when, impl.function, event) if p.when else impl.function))
        return tuple(taps)

    return Taps(**{event: compiled(event) for event in EVENTS})


def _middleware(entry: Any) -> Middleware:
    module, _, name = entry.app.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise BadConfig(f"asgi: {entry.app} cannot be imported; write package.module:Class") from None
    try:
        inspect.signature(made).bind(None, **entry.options)
    except (TypeError, ValueError) as error:  # not callable, or takes other options
        raise BadConfig(f"asgi: {entry.app} is called as app(inner, **options): {error}") from None
    return Middleware(entry.app, lambda app: made(app, **entry.options))


def package_owners(stack: Stack) -> dict[str, str]:
    """Import package → plugin name, to attribute exceptions to plugins."""
    return {type(p.plugin).__module__.partition(".")[0]: p.name for p in stack.placed}

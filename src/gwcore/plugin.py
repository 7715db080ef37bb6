"""``Plugin`` and ``Setup``: what an entry of ``stack`` or ``watch`` becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import IntEnum
from traceback import walk_tb
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from gwcore.aim import Permits
from gwcore.call import Attempt, Call, Key, Outcome, Target
from gwcore.detached import Detached
from gwcore.dialect import Dialect, Route
from gwcore.errors import AssemblyError, BadConfig, MissingPort
from gwcore.models import Models
from gwcore.ports import AdminRoute, Sample
from gwcore.prices import Prices
from gwcore.resources import Lease, Store
from gwcore.service import Service
from gwcore.wire.transport import Tls, Transport
from gwcore.workers import Workers

T = TypeVar("T")


NO_MODELS = Models({}, {})
SYSTEM_TLS = Tls()


def _no_readings() -> Iterable[Sample]:
    return ()


class Demand(IntEnum):
    """What a plugin needs parsed from the bytes passing by. A stack's demand is the maximum; ``NOTHING`` is free."""

    NOTHING = 0
    USAGE = 1


class NoConfig(BaseModel):
    """The config of a plugin without settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Setup:
    """What a plugin is given at construction: access to resources, ports and typed keys. It opens nothing.

    Attributes:
        plugin: its name in the stack file.
        prices: what a target costs; ``prices.card(target)`` is cheap while serving.
        models: what model names resolve to in this stack.
        workers: the processes that serve this stack on this machine.
        policies: the ``Policy`` model of every plugin of the stack that has one, by plugin name.
        dialects: the dialects spoken here, by name.
        detached: runs work that no client waits for.
        secrets: every secret value of the stack file, to be redacted from anything written out.
        readings: current metric samples of the gateway and all plugins of the stack; call it only once the stack has
            started.
    """

    def __init__(
        self,
        plugin: str,
        lease: Lease,
        stores: dict[str, str],
        ports: dict[type, object],
        *,
        prices: Prices | None = None,
        models: Models = NO_MODELS,
        workers: Workers | None = None,
        policies: Mapping[str, type[BaseModel]] | None = None,
        dialects: Mapping[str, Dialect] | None = None,
        detached: Detached | None = None,
        secrets: frozenset[str] = frozenset(),
        readings: Callable[[], Iterable[Sample]] = _no_readings,
        permits: Permits = (),
    ) -> None:
        self.plugin = plugin
        self.models = models
        self.workers = workers or Workers()
        self.policies = policies or {}
        self.dialects = dialects or {}
        self.detached = detached or Detached()
        self.secrets = secrets
        self.readings = readings
        self._lease = lease
        self._stores = stores
        self._ports = ports
        self.prices = prices or Prices()
        self._permits = permits

    def store(self, name: str) -> Store:
        """The store of that name; it opens on first use. Raises ``BadConfig`` for a name not in ``stores``."""
        url = self._stores.get(name)
        if url is None:
            raise BadConfig(f"no store named {name!r}; stores has: {', '.join(self._stores) or 'nothing'}")
        return self._lease.store(url)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()`` the first time; the same object after a reload that asks for the same ``key``.

        For state that must survive a reload or must not be open twice. Its ``aclose()``, if any, is awaited once no
        stack of this gateway uses it any more. Keys are private to the plugin.
        """
        return self._lease.once((self.plugin, key), make)

    def transport(self, tls: Tls = SYSTEM_TLS, proxy: str | None = None) -> Transport:
        """The transport for a plugin's own requests; shared by all with the same settings, closed by the gateway."""
        return self._lease.transport(tls, proxy)

    def permits(self, call: Call, model: str) -> bool:
        """Whether the caller may use a model: true if every plugin's :meth:`Plugin.visible` agrees."""
        return all(permit(call, model) for permit in self._permits)

    def key(self, name: str, kind: type[T], *, own: bool = False) -> Key[T]:
        """A private, typed place on every call; see :class:`gwcore.call.Key`."""
        return Key(f"{self.plugin}.{name}", kind, own=own)

    def port(self, kind: type[T]) -> T:
        """Another plugin's implementation of a port. Raises ``MissingPort``; list it in ``requires`` to fail early."""
        found = self._ports.get(kind)
        if found is None:
            raise MissingPort(f"{self.plugin} requires {kind.__name__}, which no plugin of this stack offers")
        return found  # type: ignore[return-value]  # the mapping pairs each port with its own implementation

    def offered(self, kind: type[T]) -> T | None:
        """A port's implementation, wherever in the stack, or ``None``. Call it only once the stack is assembled."""
        return self._ports.get(kind)  # type: ignore[return-value]  # as in :meth:`port`


class Plugin:
    """Base of every plugin. Override what you need; what you leave alone costs nothing at run time.

    Attributes:
        name: its name in the stack file.
        Config: model of its settings; ``extra="forbid"``, every field described.
        Policy: model of what a key's policies may hold for this plugin, or ``None``.
        inside: names of plugins that must stand further out, if present at all.
        offers: ports (Protocol types) that this plugin implements itself.
        requires: ports that another plugin of the stack must offer.
        demand: what it reads of ``outcome.usage``; set on the class or, where the settings decide, on the instance.
        priced: whether it reads costs or price cards. The stack then loads its prices before it serves, meters every
            attempt and sets ``attempt.cost`` and ``outcome.cost``.
        identifies: its call layer sets ``call.principal``. It runs before the model name is resolved, so that an
            unauthenticated client learns no names, and for model lists too. One per stack, outermost, without ``when``.
        selects: its call layer may set ``call.model`` to another model. It runs after the identifying plugin and before
            the name is resolved; whether the client may use the new model is checked afterwards, by :meth:`visible`.
        unconditional: other plugins rely on it, so no ``when`` may skip it.
        throttles: its call layer also wraps :meth:`answer` of every plugin, inside the identifying one:
            ``call.targets`` is empty there, and no upstream is called.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]] = NoConfig
    Policy: ClassVar[type[BaseModel] | None] = None
    inside: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[type, ...]] = ()
    requires: ClassVar[tuple[type, ...]] = ()
    demand: Demand = Demand.NOTHING
    priced: ClassVar[bool] = False
    identifies: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    unconditional: ClassVar[bool] = False
    throttles: ClassVar[bool] = False

    def __init__(self, config: Any, setup: Setup) -> None:
        """Store what is needed. No side effects: no task, no socket, no file."""
        self.config = config
        self.setup = setup

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start before ``yield``, stop after it. Entered in stack order, left in reverse."""
        yield

    async def settle(self) -> None:
        """Slow shutdown work, such as flushing queues; run for all plugins concurrently before any lifespan is left."""

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Wrap the outer ring: runs once per client request."""
        return inner

    def attempt_layer(self, inner: Service[Attempt]) -> Service[Attempt]:
        """Wrap the inner ring: runs once per upstream attempt."""
        return inner

    async def knock(self, call: Call) -> None:
        """For identifying plugins: reject a client by its request head, before a large body is read and parsed.

        ``call`` has its route, headers, credentials and client, but no body, document or model. The call layer still
        runs afterwards. Raises :class:`gwcore.errors.GatewayError`.
        """

    router: ClassVar[Callable[..., Service[Call]] | None] = None
    """Define it as a method ``(self, inner: Service[Attempt]) -> Service[Call]`` to be the seam between the rings."""

    def admin_routes(self) -> Sequence[AdminRoute]:
        """Admin API routes of this plugin. Called once, after construction."""
        return ()

    def client_routes(self) -> Iterable[tuple[Dialect, Route]]:
        """Client-facing routes that this plugin serves itself, with :meth:`answer`. Called once, after construction.

        The dialect determines how the request is parsed and how errors are written.
        """
        return ()

    async def answer(self, call: Call) -> Outcome:
        """Answer a call to one of :meth:`client_routes`; only identifying and throttling plugins have run before."""
        raise NotImplementedError

    def names(self) -> Mapping[str, tuple[Target, ...]]:
        """Model names beyond those of ``models``, for model lists: the names a selecting plugin understands."""
        return {}

    def visible(self, call: Call, model: str) -> bool:  # noqa: ARG002 - for overriding
        """Whether the caller may use a model, so that lists show it and a selecting plugin may choose it."""
        return True

    def explain(self, call: Call) -> str | None:  # noqa: ARG002 - for overriding
        """For ``gwcore explain``: what this plugin would do with the call, in one or more lines. Nothing is sent.

        A router sorts ``call.targets`` into the order in which it would try them; a selecting plugin sets
        ``call.model``.
        """
        return None

    def metrics(self) -> Iterable[Sample]:
        """``/metrics`` samples beyond those derived from calls: depths, states, what is left. Cheap; no secrets."""
        return ()

    def health(self) -> dict[str, Any] | None:
        """This plugin's part of ``GET /health``; no secrets. ``degraded: True`` makes the gateway ``degraded``."""
        return None


def fault_of(name: str, package: str, error: Exception, cannot: str) -> AssemblyError:
    """An exception of a plugin's own code before it serves, for its author: type, location and Python's message.

    The message is kept only for the types listed here: that of any other may quote a setting, which may be a secret.
    """
    at = ""
    for frame, line in walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package.partition(".")[0]:
            at = f" at {frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
    said = f": {error}" if isinstance(error, (TypeError, AttributeError, NameError, ImportError, OSError)) else ""
    return AssemblyError(f"{name} {cannot}: {type(error).__name__}{said}{at}")


def overrides(plugin: Plugin, method: str) -> bool:
    """Whether the plugin's class overrides ``method``."""
    return getattr(type(plugin), method) is not getattr(Plugin, method)


def ring_of(plugin: Plugin) -> Sequence[str]:
    """The rings the plugin stands in: any of ``call``, ``router``, ``attempt``; empty for a pure tap."""
    rings = [
        ring for ring, method in (("call", "call_layer"), ("attempt", "attempt_layer")) if overrides(plugin, method)
    ]
    return [*rings, "router"] if type(plugin).router is not None else rings

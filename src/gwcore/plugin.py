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
    """What a plugin needs read out of the bytes that pass. The stack's demand is the maximum; ``NOTHING`` is free."""

    NOTHING = 0
    USAGE = 1


class NoConfig(BaseModel):
    """For a plugin without settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Setup:
    """What a plugin is given at construction: names of resources and typed keys. It opens nothing.

    Attributes:
        plugin: its name in the stack file.
        prices: what a target costs; ``prices.card(target)`` is cheap while serving.
        models: what names mean in this stack.
        workers: the processes that serve this stack on this machine.
        policies: the ``Policy`` model of every plugin of the stack that has one, by name.
        dialects: what is spoken here, by name.
        detached: runs what no client waits for.
        secrets: every secret value of the stack file, to be kept out of whatever is written down.
        readings: what the gateway and all plugins of the stack show as numbers now; to be asked once the stack has started.
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
        """The store of that name; it opens on first use. Raises ``BadConfig`` for a name ``stores`` does not have."""
        url = self._stores.get(name)
        if url is None:
            raise BadConfig(f"no store named {name!r}; stores has: {', '.join(self._stores) or 'nothing'}")
        return self._lease.store(url)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()`` the first time, the same object after a reload that asks for the same ``key``.

        For what must go on counting or must not be open twice. Its ``aclose()``, if it has one, is awaited when no stack of this
        gateway uses it any more. Plugins share no keys.
        """
        return self._lease.once((self.plugin, key), make)

    def transport(self, tls: Tls = SYSTEM_TLS, proxy: str | None = None) -> Transport:
        """What a plugin's own requests go through; shared with all who ask for the same, closed by the gateway."""
        return self._lease.transport(tls, proxy)

    def permits(self, call: Call, model: str) -> bool:
        """Whether whoever calls may use a model: every plugin's :meth:`Plugin.visible` says so."""
        return all(permit(call, model) for permit in self._permits)

    def key(self, name: str, kind: type[T], *, own: bool = False) -> Key[T]:
        """A private, typed place on every call; see :class:`gwcore.call.Key`."""
        return Key(f"{self.plugin}.{name}", kind, own=own)

    def port(self, kind: type[T]) -> T:
        """What another plugin of this stack offers. Raises ``MissingPort``; declare it in ``requires`` to be told early."""
        found = self._ports.get(kind)
        if found is None:
            raise MissingPort(f"{self.plugin} requires {kind.__name__}, which no plugin of this stack offers")
        return found  # type: ignore[return-value]  # the mapping pairs each port with its own implementation

    def offered(self, kind: type[T]) -> T | None:
        """What a plugin of this stack offers, wherever it stands; ``None`` where none does. To be asked once the stack is assembled."""
        return self._ports.get(kind)  # type: ignore[return-value]  # as in :meth:`port`


class Plugin:
    """Base of every plugin. Override what you need; what you leave alone costs nothing at run time.

    Attributes:
        name: the word in the stack file.
        Config: model of its settings; ``extra="forbid"``, every field described.
        Policy: model of what a key's policies may hold for this plugin, or ``None``.
        inside: names that must stand further out, where they are present at all.
        offers: ports (Protocol types) that this plugin implements itself.
        requires: ports that another plugin of the stack must offer.
        demand: what it reads of ``outcome.usage``; of the class or, where the settings decide, of the instance.
        priced: whether it reads costs or price cards. The stack then loads its prices before it serves, meters every
            attempt and sets ``attempt.cost`` and ``outcome.cost``.
        identifies: its call layer sets ``call.principal``. It runs before the model's name is resolved, so that a
            stranger learns no names, and for lists of models too. One per stack, outermost, without ``when``.
        selects: its call layer may set ``call.model`` to another model. It runs behind what identifies and before the name
            is resolved; that the client may use the other model too is checked behind it, by :meth:`visible`.
        unconditional: others rely on it: no ``when`` may keep it from a call.
        throttles: its call layer also stands before :meth:`answer` of every plugin, behind what identifies: ``call.targets``
            is empty there, and nothing is asked of an upstream.
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
        """Keep what is needed. No side effects: no task, no socket, no file."""
        self.config = config
        self.setup = setup

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start before ``yield``, stop after it. Entered in stack order, left in reverse."""
        yield

    async def settle(self) -> None:
        """Before the lifespans of a stack are left, of all its plugins side by side: what takes time, such as sending what waits."""

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Stand in the outer ring: once per client request."""
        return inner

    def attempt_layer(self, inner: Service[Attempt]) -> Service[Attempt]:
        """Stand in the inner ring: once per upstream attempt."""
        return inner

    async def knock(self, call: Call) -> None:
        """Of a plugin that identifies: refuse a stranger by the head of a request, before a large body is read and parsed.

        ``call`` has its route, headers, credentials and client, and neither body, document nor model. The call layer runs
        all the same. Raises :class:`gwcore.errors.GatewayError`.
        """

    router: ClassVar[Callable[..., Service[Call]] | None] = None
    """Set to a method ``(self, inner: Service[Attempt]) -> Service[Call]`` to be the seam between the rings."""

    def admin_routes(self) -> Sequence[AdminRoute]:
        """Addresses of the admin API that this plugin brings. Asked once, after construction."""
        return ()

    def client_routes(self) -> Iterable[tuple[Dialect, Route]]:
        """Addresses that this plugin answers to clients itself, with :meth:`answer`. Asked once, after construction.

        The dialect says how the request is understood and how errors are written.
        """
        return ()

    async def answer(self, call: Call) -> Outcome:
        """Answer a call that came in by one of :meth:`client_routes`; what identifies and what throttles have run, nothing else."""
        raise NotImplementedError

    def names(self) -> Mapping[str, tuple[Target, ...]]:
        """Names of models beside those of ``models``, for lists of models: what a plugin that selects understands."""
        return {}

    def visible(self, call: Call, model: str) -> bool:  # noqa: ARG002 - for overriding
        """Whether whoever calls may use a model: lists show it, and a plugin that selects may choose it."""
        return True

    def explain(self, call: Call) -> str | None:  # noqa: ARG002 - for overriding
        """For ``gwcore explain``: what this plugin would do with the call, in one line or several. Nothing is sent.

        A router puts ``call.targets`` into the order in which it would try them; what selects sets ``call.model``.
        """
        return None

    def metrics(self) -> Iterable[Sample]:
        """What ``/metrics`` shows of this plugin beside what calls tell: depths, states, what is left. Cheap; no secrets."""
        return ()

    def health(self) -> dict[str, Any] | None:
        """What ``GET /health`` shows of this plugin; no secrets. With ``degraded: True`` in it the gateway's status is ``degraded``."""
        return None


def fault_of(name: str, package: str, error: Exception, cannot: str) -> AssemblyError:
    """What a plugin's own code raised before it serves, for its author: the kind, where it was, and what Python said of it.

    The text of other errors may quote a setting, which may be a secret.
    """
    at = ""
    for frame, line in walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package.partition(".")[0]:
            at = f" at {frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
    said = f": {error}" if isinstance(error, (TypeError, AttributeError, NameError, ImportError, OSError)) else ""
    return AssemblyError(f"{name} {cannot}: {type(error).__name__}{said}{at}")


def overrides(plugin: Plugin, method: str) -> bool:
    """Whether the plugin's class brings its own ``method``."""
    return getattr(type(plugin), method) is not getattr(Plugin, method)


def ring_of(plugin: Plugin) -> Sequence[str]:
    """Where the plugin stands: any of ``call``, ``router``, ``attempt``; empty for a pure tap."""
    rings = [
        ring for ring, method in (("call", "call_layer"), ("attempt", "attempt_layer")) if overrides(plugin, method)
    ]
    return [*rings, "router"] if type(plugin).router is not None else rings

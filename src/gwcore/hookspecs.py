"""The whole contract between the core and distributions: what they may register, and what a plugin may watch.

``Registration`` hooks are called once, at assembly, through pluggy. ``Watching`` hooks are compiled into tuples of
bound methods; the request path never calls pluggy.
"""

from __future__ import annotations

import inspect
from typing import Any

import pluggy

from gwcore.call import Attempt, Call, Outcome
from gwcore.dialect import Dialect
from gwcore.errors import AssemblyError
from gwcore.prices import PriceCard
from gwcore.provider import Provider, Upstream
from gwcore.units import suggest

PROJECT = "gwcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# ── registration: asked once, at assembly ────────────────────────────────────────────────────────────────────────────


class Registration:
    """Hooks of an entry point in group ``gwcore``: module-level functions marked with ``@hookimpl``."""

    @hookspec
    def gwcore_plugins(self) -> list[type[Any]]:  # type: ignore[empty-body]
        """Plugin classes that ``stack`` and ``watch`` may name; see :class:`gwcore.plugin.Plugin`."""

    @hookspec
    def gwcore_dialects(self) -> list[Dialect]:  # type: ignore[empty-body]
        """Wire formats to listen for and to forward."""

    @hookspec
    def gwcore_providers(self) -> list[Provider]:  # type: ignore[empty-body]
        """Vendors that ``upstreams.<name>.provider`` may name."""

    @hookspec(firstresult=True)
    def gwcore_price(self, upstream: Upstream, model: str) -> PriceCard | None:
        """What a model costs at an upstream; ``None`` if unknown here, and the next implementation is asked.

        Called once per model, off the serving loop for models in the stack file; the first call may be slow.
        """

    @hookspec(firstresult=True)
    def gwcore_models(self, upstream: Upstream) -> list[str] | None:
        """Models an upstream is known to have, to list what a wildcard reaches; ``None`` if nothing is known.

        Called off the serving loop, once per stack; the first call may be slow.
        """

    @hookspec
    def gwcore_commands(self) -> list[Any]:  # type: ignore[empty-body]
        """Typer applications that become subcommands of ``gwcore``, each named by its ``info.name``."""


# ── watching: taps; synchronous, and unable to delay or break a call ─────────────────────────────────────────────────


class Watching:
    """Plugin methods marked with ``@hookimpl``, with exactly these parameter names in this order; none is async.

    A plugin may have taps as well as layers. A tap that raises is counted and logged; the call goes on.
    """

    @hookspec
    def call_started(self, call: Call) -> None:
        """A request was understood; no layer has run yet."""

    @hookspec
    def attempt_started(self, attempt: Attempt) -> None:
        """A request is about to be sent to an upstream."""

    @hookspec
    def attempt_failed(self, attempt: Attempt) -> None:
        """An attempt ended with ``attempt.error``; another may follow."""

    @hookspec
    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """The exchange is over. Fires exactly once per call, whatever happened."""


EVENTS = {name: hook for name, hook in vars(Watching).items() if not name.startswith("_")}


_ASKED = ("visible", "names", "explain", "metrics", "health", "admin_routes", "client_routes")
"""Methods of a plugin that must not be coroutine functions."""


def check_taps(plugin: Any) -> None:
    """Validate a plugin's taps and its other synchronous methods.

    Raises:
        AssemblyError: a method is async and must not be; or a tap matches no event, is not marked, is async, or takes
            other parameters.
    """
    for name in _ASKED:
        method = getattr(type(plugin), name)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            # a coroutine object is truthy, whatever it would have returned
            raise AssemblyError(f"{type(plugin).__name__}.{name} is async: it is asked synchronously; leave out async")
    for name in dir(type(plugin)):
        method = getattr(type(plugin), name, None)
        marked, event = hasattr(method, f"{PROJECT}_impl"), EVENTS.get(name)
        what = f"{type(plugin).__name__}.{name}"
        if event is None:
            if marked:
                otherwise = f"events are: {', '.join(EVENTS)}"
                raise AssemblyError(f"{what}: no event of that name; {suggest(name, EVENTS, otherwise)}")
            continue
        if not callable(method) or not marked:
            raise AssemblyError(f"{what} is a tap: mark it @hookimpl, or give it another name")
        if inspect.iscoroutinefunction(method):
            raise AssemblyError(f"{what} is async: a tap is told synchronously; hand work to a task of lifespan")
        wanted = list(inspect.signature(event).parameters)
        if list(inspect.signature(method).parameters) != wanted:
            raise AssemblyError(f"{what} must take ({', '.join(wanted)})")

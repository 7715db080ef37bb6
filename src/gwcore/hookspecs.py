"""The whole contract between core and distributions: what they may register, and what a plugin may watch.

``Registration`` is asked once, at assembly, through pluggy. ``Watching`` is compiled into tuples of bound methods; the
request path never calls pluggy.
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
        """What a model costs at an upstream; ``None`` where it is not known here, and the next is asked.

        Asked once per model, off the serving loop where the model is in the stack file; the first call may be slow.
        """

    @hookspec(firstresult=True)
    def gwcore_models(self, upstream: Upstream) -> list[str] | None:
        """Names of models that an upstream is known to have, to list what a wildcard reaches; ``None`` where nothing is.

        Asked off the serving loop, once per stack; the first call may be slow.
        """

    @hookspec
    def gwcore_commands(self) -> list[Any]:  # type: ignore[empty-body]
        """Typer applications that become verbs of ``gwcore``; each has its verb as ``info.name``."""


# ── watching: taps; synchronous, and unable to delay or break a call ─────────────────────────────────────────────────


class Watching:
    """Methods of a plugin marked with ``@hookimpl``, with these parameters by name and order; none is async.

    A plugin may have taps beside layers. One that raises is counted and logged; the call goes on.
    """

    @hookspec
    def call_started(self, call: Call) -> None:
        """A request was understood; no layer has run yet."""

    @hookspec
    def attempt_started(self, attempt: Attempt) -> None:
        """An upstream is about to be asked."""

    @hookspec
    def attempt_failed(self, attempt: Attempt) -> None:
        """An attempt ended with ``attempt.error``; another may follow."""

    @hookspec
    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """The exchange is over. Told exactly once per call, whatever happened."""


EVENTS = {name: hook for name, hook in vars(Watching).items() if not name.startswith("_")}


_ASKED = ("visible", "names", "explain", "metrics", "health", "admin_routes", "client_routes")
"""Methods of a plugin that are no coroutine functions."""


def check_taps(plugin: Any) -> None:
    """Whether the taps of a plugin can be told, and its other methods asked.

    Raises:
        AssemblyError: a method that is async and must not be; a tap that no event is named after, that is not marked, is async, or takes other parameters.
    """
    for name in _ASKED:
        method = getattr(type(plugin), name)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            # a coroutine is as good as True, whatever it would have said
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

"""The whole contract between core and distributions: what they may register, and what a plugin may watch.

``Registration`` is asked once, at assembly, through pluggy. ``Watching`` is compiled into tuples of bound methods; the
request path never calls pluggy.
"""

from __future__ import annotations

from typing import Any

import pluggy

from gwcore.call import Attempt, Call, Outcome
from gwcore.dialect import Dialect
from gwcore.prices import PriceCard
from gwcore.provider import Provider, Upstream

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

    @hookspec
    def gwcore_commands(self) -> list[Any]:  # type: ignore[empty-body]
        """Typer applications that become verbs of ``gwcore``; each has its verb as ``info.name``."""


# ── watching: taps; synchronous, and unable to delay or break a call ─────────────────────────────────────────────────


class Watching:
    """Methods of a plugin marked with ``@hookimpl``. One that raises is counted and logged; the call goes on."""

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

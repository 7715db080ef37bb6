"""``Stack``: a compiled pipeline. Immutable; it starts, serves and drains. A reload builds a new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from gwcore.call import Call
from gwcore.config import ServerConfig
from gwcore.detached import Detached
from gwcore.dialect import Route
from gwcore.dispatch import Dispatch
from gwcore.errors import GatewayError
from gwcore.ingest import Door
from gwcore.ingress import Ingress
from gwcore.models import Models
from gwcore.plugin import Plugin, fault_of, overrides, ring_of
from gwcore.prices import Prices
from gwcore.provider import Upstream
from gwcore.resources import Lease
from gwcore.service import Service
from gwcore.taps import Taps
from gwcore.when import Condition

if TYPE_CHECKING:
    from gwcore.adminapi import AdminApp

_log = structlog.get_logger("gwcore")


@dataclass(slots=True, frozen=True)
class Placed:
    """A plugin instance and its place in the stack file."""

    name: str
    plugin: Plugin
    when: Condition | None = None
    watching: bool = False

    @property
    def rings(self) -> Sequence[str]:
        """``call``, ``router``, ``attempt``; empty for a pure tap."""
        return ring_of(self.plugin)


@dataclass(slots=True, frozen=True)
class Middleware:
    """An entry of ``asgi``: its name in the stack file, and the function that wraps an application."""

    name: str
    wrap: Callable[[Any], Any]


@dataclass(slots=True, eq=False)
class Stack:
    """Everything compiled from one generation of the stack file.

    ``service`` is the whole pipeline as one callable, ``listing`` answers model lists, ``answers`` serves the routes of
    plugins, ``door`` is called before a large body is read. ``inflight`` counts the calls inside them.
    """

    service: Service[Call]
    listing: Service[Call]
    ingress: Ingress
    models: Models
    upstreams: dict[str, Upstream]
    placed: tuple[Placed, ...]
    taps: Taps
    server: ServerConfig
    dispatch: Dispatch
    lease: Lease = field(repr=False)
    answers: Mapping[Route, Service[Call]] = field(default_factory=dict, repr=False)
    prices: Prices = field(default_factory=Prices, repr=False)
    admin: AdminApp | None = None
    detached: Detached = field(default_factory=Detached, repr=False)
    asgi: tuple[Middleware, ...] = ()
    digest: str = ""
    inflight: int = 0
    door: Door | None = field(init=False, repr=False)
    _idle: asyncio.Event | None = None
    _exit: AsyncExitStack = field(default_factory=AsyncExitStack, repr=False)

    def __post_init__(self) -> None:
        self.door = next((p.plugin.knock for p in self.placed if p.plugin.identifies), None)

    async def start(self) -> None:
        """Enter every plugin's lifespan in stack order. On failure, exit those entered, then raise.

        If anything reads costs, prices are looked up first, and unpriced models are logged.
        """
        if self.dispatch.prices is not None:
            unpriced = await self.models.look_up(self.prices)
            if unpriced:
                _log.warning("models without a price", models=unpriced, mend="set upstreams.<name>.prices")
        try:
            for placed in self.placed:
                await self._enter(placed)
        except BaseException:
            await self._exit.aclose()
            raise

    async def _enter(self, placed: Placed) -> None:
        try:
            await self._exit.enter_async_context(placed.plugin.lifespan())
        except GatewayError:
            raise
        except Exception as error:
            raise fault_of(placed.name, type(placed.plugin).__module__, error, "cannot start") from error

    async def _settle(self, placed: Placed) -> None:
        try:
            await placed.plugin.settle()
        except Exception as error:  # one plugin's failure must not keep the others' lifespans from being exited
            _log.error("a plugin did not settle", plugin=placed.name, error=type(error).__name__)

    def left(self) -> None:
        """A call has ended."""
        self.inflight -= 1
        if self._idle is not None and self.inflight == 0:
            self._idle.set()

    async def drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - a deadline of the stack's own, in seconds
        """Wait up to ``timeout`` seconds for calls in flight, then stop the plugins and release resources.

        Both clients' calls and the stack's own detached work are waited for.
        """
        began = time.monotonic()
        if self.inflight:
            self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                pass
        try:
            await self.detached.drain(None if timeout is None else max(0.0, timeout - (time.monotonic() - began)))
            await asyncio.gather(
                *[self._settle(placed) for placed in self.placed if overrides(placed.plugin, "settle")]
            )
            await self._exit.aclose()
        finally:
            await self.lease.release()

    def health(self) -> dict[str, Any]:
        """The plugins' health by name; for one whose ``health`` raises, the type of its error."""
        said = {placed.name: _health(placed.plugin) for placed in self.placed}
        return {name: health for name, health in said.items() if health is not None}


def _health(plugin: Plugin) -> Any:
    try:
        said = plugin.health()
        orjson.dumps(said)
    except Exception as error:  # one plugin's fault must not hide the others' health
        return {"error": type(error).__name__}
    return said

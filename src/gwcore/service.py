"""``Service``, ``Layer``, ``Router``: the shape of the pipeline, after tower."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from gwcore.call import Attempt, Call, Outcome
from gwcore.errors import AssemblyError

X_contra = TypeVar("X_contra", contravariant=True)
X = TypeVar("X")
Y = TypeVar("Y")


class Service(Protocol[X_contra]):
    """Takes a call (or an attempt) to its end. When it returns, the last byte has been handed to the server."""

    async def __call__(self, x: X_contra, /) -> Outcome:
        """Run to the end; raises :class:`gwcore.errors.GatewayError`.

        As a rule a coroutine function. A layer that has nothing to do afterwards may hand on the coroutine of its inner side, and
        then raises when it is called: await where you call, or call inside your ``try``.
        """
        ...


Layer = Callable[[Service[X]], Service[X]]
"""Wraps a service in another of the same kind."""

Router = Callable[[Service[Attempt]], Service[Call]]
"""The seam between the rings: turns one call into attempts."""


def compose(layers: Iterable[Layer[X]], inner: Service[X]) -> Service[X]:
    """Wrap ``inner`` so that the first layer stands outermost."""
    for layer in reversed(list(layers)):
        inner = wrap(layer, inner)
    return inner


def wrap(layer: Callable[[Service[X]], Service[Y]], inner: Service[X]) -> Service[Y]:
    """``layer(inner)``. Raises ``AssemblyError`` where that is nothing that can be called."""
    made = layer(inner)
    if not callable(made):
        if hasattr(made, "close"):  # a coroutine, which would warn that nobody awaits it
            made.close()
        where = getattr(layer, "__qualname__", "a layer")
        raise AssemblyError(
            f"{where} returns {type(made).__name__}, not a service: return the async function inside it"
        )
    return made

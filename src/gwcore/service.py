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
    """Runs a call (or an attempt) to its end. When it returns, the last byte has been handed to the server."""

    async def __call__(self, x: X_contra, /) -> Outcome:
        """Run to the end; raises :class:`gwcore.errors.GatewayError`.

        Usually a coroutine function. A layer with nothing to do afterwards may return its inner service's coroutine,
        and then raises as soon as it is called: await where you call, or call inside your ``try``.
        """
        ...


Layer = Callable[[Service[X]], Service[X]]
"""Wraps a service in another of the same kind."""

Router = Callable[[Service[Attempt]], Service[Call]]
"""The seam between the rings: turns one call into attempts."""


def compose(layers: Iterable[Layer[X]], inner: Service[X]) -> Service[X]:
    """Wrap ``inner`` so that the first layer is outermost."""
    for layer in reversed(list(layers)):
        inner = wrap(layer, inner)
    return inner


def wrap(layer: Callable[[Service[X]], Service[Y]], inner: Service[X]) -> Service[Y]:
    """``layer(inner)``. Raises ``AssemblyError`` if the result is not callable."""
    made = layer(inner)
    if not callable(made):
        if hasattr(made, "close"):  # a coroutine, which would warn that it was never awaited
            made.close()
        where = getattr(layer, "__qualname__", "a layer")
        raise AssemblyError(
            f"{where} returns {type(made).__name__}, not a service: return the async function inside it"
        )
    return made

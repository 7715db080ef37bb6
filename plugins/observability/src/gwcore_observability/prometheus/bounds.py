"""Bounded label values: those in the settings, a limited number of other real ones, and ``other``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

OTHER = "other"
NONE = "none"

T = TypeVar("T")


class Names:
    """The values of one label: all ``known`` ones, and the first ``most`` others that are real."""

    __slots__ = ("_known", "_more", "_most")

    def __init__(self, known: Iterable[str] = (), most: int = 0) -> None:
        self._known = frozenset(known)
        self._more: set[str] = set()
        self._most = most

    def know(self, known: Iterable[str]) -> None:
        """Replace the known values after a reload."""
        self._known = frozenset(known)

    def __call__(self, name: str | None, *, real: bool = True) -> str:
        """The name, or ``other``. ``real``: the name is confirmed, for example by an upstream that answered."""
        if name is None:
            return NONE
        if name in self._known or name in self._more:
            return name
        if real and len(self._more) < self._most:
            self._more.add(name)
            return name
        return OTHER


class Labelled(Protocol):
    """A metric of ``prometheus_client``."""

    def labels(self, *values: str) -> Any:
        """The child for these values."""
        ...


class Children(Generic[T]):
    """A metric's children by label values, found without its lock; beyond ``most``, ``collapse`` maps the values."""

    __slots__ = ("_collapse", "_made", "_metric", "_most", "_of")

    def __init__(
        self,
        metric: Labelled,
        of: Callable[[Any], T],
        most: int,
        collapse: Callable[[tuple[str, ...]], tuple[str, ...]],
    ) -> None:
        """``of`` returns the child's method to call: ``inc`` or ``observe``."""
        self._metric = metric
        self._of = of
        self._most = most
        self._collapse = collapse
        self._made: dict[tuple[str, ...], T] = {}

    def __getitem__(self, values: tuple[str, ...]) -> T:
        found = self._made.get(values)
        if found is None:
            if len(self._made) >= self._most:
                values = self._collapse(values)
                found = self._made.get(values)
            if found is None:
                found = self._made[values] = self._of(self._metric.labels(*values))
        return found

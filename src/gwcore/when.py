"""``when``: for which calls an entry of ``stack`` is there at all. Decided once per call; free where absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import translate
from re import compile as compile_
from typing import TypeVar

from gwcore.call import Attempt, Call, Key, Outcome
from gwcore.service import Layer, Service, wrap

X = TypeVar("X", Call, Attempt)


class Condition:
    """Every list that is given must match; within a list, one does. Names of models may hold ``*``."""

    def __init__(
        self,
        models: Sequence[str] = (),
        operations: Sequence[str] = (),
        dialects: Sequence[str] = (),
        tags: Sequence[str] = (),
    ) -> None:
        self._models = compile_("|".join(map(translate, models))) if models else None
        self._operations = frozenset(operations)
        self._dialects = frozenset(dialects)
        self._tags = frozenset(tags)
        self._decided: Key[bool] = Key("when", bool)

    def __call__(self, call: Call) -> bool:
        """Whether the entry is there for this call; the first answer holds for all its attempts."""
        decided = call.get(self._decided)
        if decided is None:
            decided = call[self._decided] = self._decide(call)
        return decided

    def _decide(self, call: Call) -> bool:
        return (
            (self._models is None or (call.model is not None and self._models.match(call.model) is not None))
            and (not self._operations or call.operation in self._operations)
            and (not self._dialects or call.dialect.name in self._dialects)
            and (not self._tags or not self._tags.isdisjoint(call.tags))
        )


def only_when(condition: Condition, layer: Layer[X], call_of: Callable[[X], Call]) -> Layer[X]:
    """The layer where the condition holds, and nothing where it does not."""

    def conditional(inner: Service[X]) -> Service[X]:
        layered = wrap(layer, inner)

        async def when(x: X) -> Outcome:
            return await (layered if condition(call_of(x)) else inner)(x)

        return when

    return conditional

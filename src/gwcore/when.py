"""``when``: the calls that an entry of ``stack`` applies to. Decided once per call; free where absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import wraps
from re import compile as compile_
from typing import Any, TypeVar

from gwcore.call import Attempt, Call, Key, Outcome
from gwcore.service import Layer, Service, wrap

X = TypeVar("X", Call, Attempt)


class Condition:
    """Every given list must match; within a list, one match is enough. Model names may contain ``*``."""

    __slots__ = ("_decided", "_dialects", "_models", "_operations", "_said", "_tags")

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
        self._decided: Key[bool] = Key("when", bool, own=True)
        given = {"models": models, "operations": operations, "dialects": dialects, "tags": tags}
        self._said = "; ".join(f"{key} {', '.join(words)}" for key, words in given.items() if words)

    def __str__(self) -> str:
        return self._said

    def __call__(self, call: Call) -> bool:
        """Whether the entry applies to this call; the first answer holds for all its attempts."""
        decided = call.get(self._decided)
        if decided is None:
            decided = call[self._decided] = self.now(call)
        return decided

    def now(self, call: Call) -> bool:
        """Whether it would apply, judging by what is known of the call so far."""
        return (
            (self._models is None or (call.model is not None and self._models.match(call.model) is not None))
            and (not self._operations or call.operation in self._operations)
            and (not self._dialects or call.dialect.name in self._dialects)
            and (not self._tags or not self._tags.isdisjoint(call.tags))
        )


def only_when(condition: Condition | None, layer: Layer[X], call_of: Callable[[X], Call]) -> Layer[X]:
    """The layer, bypassed where the condition does not hold; the layer itself if there is no condition."""
    if condition is None:
        return layer

    def conditional(inner: Service[X]) -> Service[X]:
        layered = wrap(layer, inner)

        async def when(x: X) -> Outcome:
            return await (layered if condition(call_of(x)) else inner)(x)

        return when

    return conditional


def tap_when(condition: Condition, tap: Callable[..., None], event: str) -> Callable[..., None]:
    """The tap, fired only for calls for which the condition holds."""
    # at call_started the call is not authenticated, and auth may add tags: do not fix the decision for the layers yet
    holds = condition.now if event == "call_started" else condition

    @wraps(tap)
    def told(x: Call | Attempt, *more: Any) -> None:
        if holds(x if isinstance(x, Call) else x.call):
            tap(x, *more)

    return told

"""Undoes substitutions made for the upstream: tool names, free-text tools, and an answer requested as a tool call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import orjson

from gwcore.chat import Choice, Finish, Part, Text, ToolCall
from gwcore.events import Event, Finished, PartEnded, TextDelta, ToolCallDelta, ToolCallStarted


@dataclass(slots=True, frozen=True)
class AnswerTool:
    """A tool whose arguments are the answer, for a model without structured output; without a ``name``, its text is.

    ``wrapped``: the schema is not an object's, so it is nested under ``value``, since arguments must be an object, as
    the answer of OpenAI's structured output must.
    """

    name: str | None
    wrapped: bool = False


def free_text(arguments: str) -> str:
    """The single string argument of a function that stands in for a free-text tool."""
    text = _members(arguments).get("input")
    return text if isinstance(text, str) else arguments


def unwrapped(arguments: str) -> str:
    """The JSON text under ``value``; unchanged if there is none."""
    members = _members(arguments)
    return orjson.dumps(members["value"]).decode() if "value" in members else arguments


def _members(arguments: str) -> dict[str, object]:
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class Restorer:
    """One per attempt.

    Args:
        customs: names of free-text tools that the upstream sees as functions of one string.
        answer: the tool whose arguments are the answer.
        names: what the upstream calls a tool → the client's name.
    """

    def __init__(self, customs: frozenset[str], answer: AnswerTool | None, names: Mapping[str, str]) -> None:
        self._names = names
        self._customs = customs
        self._answer = answer
        self._texts = answer is not None and answer.name is None
        self._held: dict[int, list[str]] = {}
        self._answers: set[int] = set()
        self._called = False

    # ── a whole answer ──

    def choice(self, choice: Choice) -> None:
        """In place."""
        choice.parts = [self._part(part) for part in choice.parts]
        if self._answer is not None and not any(isinstance(part, ToolCall) for part in choice.parts):
            choice.finish = _ended(choice.finish)

    def _part(self, part: Part) -> Part:
        if self._texts and isinstance(part, Text) and not part.refusal:
            return replace(part, text=unwrapped(part.text))
        if not isinstance(part, ToolCall) or part.custom:
            return part
        if self._answer is not None and part.name == self._answer.name:
            return Text(unwrapped(part.arguments) if self._answer.wrapped else part.arguments or "{}")
        name = self._names.get(part.name, part.name)
        if name in self._customs:
            return replace(part, name=name, custom=True, arguments=free_text(part.arguments))
        return part if name == part.name else replace(part, name=name)

    # ── a stream ──

    def events(self, events: Iterable[Event]) -> list[Event]:
        """The same for a stream, in order; free text and wrapped answers are emitted when their part ends."""
        out: list[Event] = []
        for event in events:
            if isinstance(event, ToolCallStarted):
                self._started(event, out)
            elif isinstance(event, ToolCallDelta):
                self._delta(event, out)
            elif self._texts and isinstance(event, TextDelta) and not event.refusal:
                self._answers.add(event.part)
                self._held.setdefault(event.part, []).append(event.text)
            elif isinstance(event, PartEnded) and event.part in self._held:
                text = "".join(self._held.pop(event.part))
                if event.part in self._answers:
                    out.append(TextDelta(event.part, unwrapped(text), event.choice))
                else:
                    out.append(ToolCallDelta(event.part, free_text(text), event.choice))
                out.append(event)
            elif isinstance(event, Finished) and self._answers and not self._called:
                out.append(Finished(_ended(event.finish), event.choice))
            else:
                out.append(event)
        return out

    def _started(self, event: ToolCallStarted, out: list[Event]) -> None:
        call, answer = event.call, self._answer
        if answer is not None and call.name == answer.name:
            self._answers.add(event.part)
            if answer.wrapped:
                self._held[event.part] = [call.arguments]
            else:
                out.append(TextDelta(event.part, call.arguments, event.choice))
            return
        self._called = True
        if (name := self._names.get(call.name)) is not None:
            event.call = call = replace(call, name=name)
        if call.name in self._customs and not call.custom:
            self._held[event.part] = [call.arguments]
            event.call = replace(call, custom=True, arguments="")
        out.append(event)

    def _delta(self, event: ToolCallDelta, out: list[Event]) -> None:
        if event.part in self._held:
            self._held[event.part].append(event.arguments)
        elif event.part in self._answers:
            out.append(TextDelta(event.part, event.arguments, event.choice))
        else:
            out.append(event)


def _ended(finish: Finish) -> Finish:
    """A call that is the answer ends it."""
    return replace(finish, reason="stop") if finish.reason == "tool_calls" else finish

"""Answers of Ollama's ``/api/chat``, complete and as JSON lines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from gwcore.chat import ChatReply, Choice, Finish, FinishReason, Media, Part, Reasoning, Text, ToolCall
from gwcore.codec import Complaint
from gwcore.errors import Malformed
from gwcore.events import Event, Failed, Finished, Metered, Started, Whole
from gwcore.wire.sse import Frame
from gwcore_providers import native
from gwcore_providers.crossing import complaint_of, spelled
from gwcore_providers.ollama.write import DIALECT
from gwcore_providers.usage import ollama_usage

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def _finish(word: Any, *, calls: bool) -> Finish:
    reason = _REASONS.get(str(word), "unknown")
    if reason == "stop" and calls:
        reason = "tool_calls"
    return Finish(reason, str(word) if word else None)


def _created(document: dict[str, Any]) -> int | None:
    try:
        # without nanoseconds, which Python's parser rejects
        return int(datetime.fromisoformat(str(document["created_at"])[:19] + "+00:00").timestamp()) or None
    except (KeyError, ValueError):
        return None


def _call(item: dict[str, Any]) -> ToolCall:
    body = item["function"]
    arguments = spelled(body.get("arguments"))
    return ToolCall(str(item.get("id") or native.new_id("call_")), str(body["name"]), arguments, dialect=DIALECT)


def _images(message: dict[str, Any]) -> list[Media]:
    return [Media("image", "image/png", data) for data in message.get("images") or () if isinstance(data, str)]


def read_reply(document: Any) -> ChatReply:
    """See :meth:`gwcore.codec.UpstreamCodec.read_reply`."""
    if not isinstance(document, dict) or not isinstance(document.get("message"), dict):
        raise Malformed("the upstream's answer has no message")
    message = document["message"]
    parts: list[Part] = []
    if message.get("thinking"):
        parts.append(Reasoning(message["thinking"], dialect=DIALECT))
    if message.get("content"):
        parts.append(Text(message["content"]))
    calls = [_call(item) for item in message.get("tool_calls") or ()]
    finish = _finish(document.get("done_reason"), calls=bool(calls))
    choice = Choice([*parts, *_images(message), *calls], finish, document.get("logprobs") or None)
    return ChatReply(
        DIALECT,
        native.new_id("ollama-"),
        str(document.get("model") or ""),
        [choice],
        ollama_usage(document),
        _created(document),
    )


def read_error(_status: int, body: bytes) -> Complaint:
    """See :meth:`gwcore.codec.UpstreamCodec.read_error`."""
    return complaint_of(body)


class OllamaReader:
    """See :class:`gwcore.codec.StreamReader`. Tool calls are never split; a line may have several."""

    def __init__(self) -> None:
        self._parts = native.Parts()
        self._started = False
        self._calls = False

    def read(self, frame: Frame) -> Sequence[Event]:
        """One line."""
        document = native.document_of(frame)
        if document is None:
            return ()
        if document.get("error"):
            error = document["error"]
            said = error if isinstance(error, str) else orjson.dumps(error).decode()
            return (Failed(500, "upstream", said),)
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(Started(native.new_id("ollama-"), str(document.get("model") or ""), _created(document)))
        message = document.get("message") or {}
        if message.get("thinking"):
            self._parts.thought(message["thinking"], events)
        if message.get("content"):
            self._parts.text(message["content"], events, document.get("logprobs"))
        for image in _images(message):
            events.append(Whole(self._parts.new(events), image))
        for item in message.get("tool_calls") or ():
            self._calls = True
            self._parts.call(_call(item), events)
        if document.get("done"):
            self._parts.close(events)
            events.append(Finished(_finish(document.get("done_reason"), calls=self._calls)))
            events.append(Metered(ollama_usage(document)))
        return events

    def close(self) -> Sequence[Event]:
        """No events: the last line contained everything."""
        return ()

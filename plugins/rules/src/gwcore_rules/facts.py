"""What rules test about a request: its task, size, needs, sender and time. Each is computed once, on first use."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, Final
from zoneinfo import ZoneInfo

from gwcore.call import Call, Principal, words
from gwcore.chat import Media, Part, ToolResult
from gwcore.codec import both_ways
from gwcore.errors import MISSHAPEN, BadRequest, GatewayError
from gwcore.estimate import Estimator, ceiling
from gwcore.units import parse_money

TASK, CAP = b"x-gwcore-task", b"x-gwcore-max-cost-usd"
METADATA, TASK_TYPE, MAX_COST = "metadata", "task_type", "max_cost_usd"
_SHOWN: Final = (b"image", b"inlineData", b"inline_data", b"fileData", b"file_data")
_LONGEST: Final = 200
_NOBODY: Final = Principal("")


class Facts:
    """Facts of one call.

    Attributes:
        prefix: model names that ask for a choice begin with it.
        now: seconds since the epoch.
    """

    def __init__(self, call: Call, prefix: str, estimator: Estimator, now: float) -> None:
        self.call = call
        self.prefix = prefix
        self.now = now
        self._estimator = estimator

    @property
    def principal(self) -> Principal:
        """The caller; an empty principal if no plugin has identified one."""
        return self.call.principal or _NOBODY

    @cached_property
    def auto(self) -> bool:
        """Whether the model's name asks for a choice."""
        asked = self.call.model or ""
        return asked == self.prefix or asked.startswith(f"{self.prefix}/")

    @cached_property
    def task(self) -> str:
        """The task type from a header, the body's metadata or the model's name; else empty. Raises ``BadRequest``."""
        said = self.call.header(TASK)
        if said is not None:
            return _short(words(said).strip(), "x-gwcore-task")
        metadata = (self.call.document or {}).get(METADATA)
        if isinstance(metadata, dict) and (task := metadata.get(TASK_TYPE)) is not None:
            if not isinstance(task, str):
                raise BadRequest("metadata.task_type must be text")
            return _short(task, "metadata.task_type")
        if self.auto:
            return (self.call.model or "").removeprefix(self.prefix).removeprefix("/")
        return ""

    @cached_property
    def cap(self) -> int | None:
        """The client's own limit of the estimated cost in nano-USD, or ``None``. Raises ``BadRequest``."""
        said: Any = self.call.header(CAP)
        if said is not None:
            said = said.decode("latin-1")
        else:
            metadata = (self.call.document or {}).get(METADATA)
            said = metadata.get(MAX_COST) if isinstance(metadata, dict) else None
        if said is None:
            return None
        try:
            return parse_money(said)
        except ValueError:
            raise BadRequest("max_cost_usd is not an amount: write dollars, such as 0.05") from None

    @cached_property
    def size(self) -> tuple[int, int]:
        """Bytes of text, and number of images, files and sounds."""
        return self._estimator.size(self.call)

    @cached_property
    def input_tokens(self) -> int:
        """Estimated number of input tokens."""
        return self._estimator.estimate(self.call, size=self.size)[0]

    @cached_property
    def ceiling(self) -> tuple[int | None, int]:
        """The request's limit of tokens per answer, if any, and the number of answers it asks for."""
        return ceiling(self.call)

    @cached_property
    def tools(self) -> bool:
        """Whether it offers tools."""
        document = self.call.document or {}
        return bool(document.get("tools") or document.get("functions"))

    @cached_property
    def vision(self) -> bool:
        """Whether it contains an image."""
        call = self.call
        if call.document is None or call.operation != "chat" or not any(mark in call.raw for mark in _SHOWN):
            return False
        codec = both_ways(call.dialect.chat)
        if codec is None:
            return True
        try:
            request = codec.read_request(call.document, call.model or "", stream=call.stream)
        except (GatewayError, *MISSHAPEN):
            return True  # not for us to judge; the body has at least the marker of an image
        return any(isinstance(part, Media) and part.kind == "image" for m in request.messages for part in _all(m.parts))

    def local(self, zone: ZoneInfo) -> datetime:
        """The local time in a zone."""
        return datetime.fromtimestamp(self.now, zone)


def _all(parts: list[Part]) -> Iterator[Part]:
    for part in parts:
        yield part
        if isinstance(part, ToolResult):
            yield from _all(part.parts)


def _short(text: str, what: str) -> str:
    if len(text) > _LONGEST:
        raise BadRequest(f"{what} is over {_LONGEST} characters")
    return text

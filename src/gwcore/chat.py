"""The canonical conversation: what every chat dialect is parsed into and written from. Values only.

What exists in one dialect only is kept in ``extra`` (keys of a known object) or in an :class:`Opaque` part (an unknown
object), and written back only by the dialect it came from: ``dialect`` of the request or reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from gwcore.usage import Usage

Json = Any
Extra = Mapping[str, Any]
NONE: Extra = MappingProxyType({})


def _nothing() -> Extra:
    return NONE


Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal[
    "stop",  # the model had said everything, or a stop sequence came
    "length",  # max_tokens
    "context_window",  # the window was full
    "tool_calls",
    "content_filter",  # a filter of the vendor's ended it
    "refusal",  # the model declined
    "pause",  # the vendor wants the turn sent again to go on
    "error",
    "unknown",  # a reason this version does not know: never shown as ``stop``
]


@dataclass(slots=True)
class Text:
    """Words.

    Attributes:
        cache: time to live of a prompt-cache mark behind this part (``5m``, ``1h``), or ``None``.
        refusal: the words say why the model declined.
    """

    text: str
    citations: list[Citation] = field(default_factory=list)
    cache: str | None = None
    refusal: bool = False
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True, frozen=True)
class Citation:
    """Where words come from. ``doc`` is the citation as the vendor wrote it, of ``dialect``."""

    url: str | None = None
    title: str | None = None
    quote: str | None = None
    start: int | None = None
    end: int | None = None
    dialect: str = ""
    doc: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class Media:
    """An image, a sound, a video or a document.

    Attributes:
        data: base64, or the words of a plain-text document where ``mime`` is ``text/plain`` and ``plain`` is set.
        url: to be fetched by the vendor; ``file_id``: of the vendor's own file store.
        detail: how closely an image is to be looked at (``low``, ``high``, ``auto`` …).
    """

    kind: Literal["image", "audio", "video", "file"]
    mime: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    detail: str | None = None
    plain: bool = False
    cache: str | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class Reasoning:
    """What the model thought, and what must come back byte for byte in the next turn.

    Attributes:
        text: as far as the vendor shows it; ``summary`` says that it is a summary.
        signature: over ``text``, of ``dialect``; ``encrypted``: the thought itself, sealed; ``redacted``: sealed for safety.
        id: of the item that holds it.
        dialect: who signed or sealed. Signatures are carried, never made.
    """

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    redacted: bool = False
    summary: bool = False
    id: str | None = None
    dialect: str = ""
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class ToolCall:
    """The model requests a tool call.

    Attributes:
        arguments: JSON text as the model wrote it, which need not parse; free text where ``custom``.
        signature: of ``dialect``, over the thought that led to this call.
        server: run by the vendor itself, not by the client.
    """

    id: str
    name: str
    arguments: str = ""
    custom: bool = False
    server: bool = False
    signature: str | None = None
    dialect: str = ""
    item_id: str | None = None
    cache: str | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class ToolResult:
    """What a tool returned: opaque to the gateway, never inspected, never repaired."""

    id: str
    parts: list[Part]
    name: str | None = None
    error: bool = False
    custom: bool = False
    document: Json = None
    """The result as an object, in a dialect that sends one; ``parts`` then holds its JSON text."""
    cache: str | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class Opaque:
    """Understood only by its own dialect, if it has one. ``kind`` names it in errors, and when it is dropped."""

    dialect: str
    kind: str
    doc: Json


Part = Text | Media | Reasoning | ToolCall | ToolResult | Opaque


@dataclass(slots=True)
class Message:
    """One turn, or a part of one: dialects differ in what they split."""

    role: Role
    parts: list[Part]
    name: str | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class Tool:
    """A tool the client offers. ``schema`` is ``None`` where none was given; ``grammar`` constrains a ``custom`` tool.

    ``server`` tools run at the vendor: ``doc`` is their definition, in ``dialect``.
    """

    name: str
    description: str | None = None
    schema: Json = None
    strict: bool | None = None
    custom: bool = False
    grammar: Json = None
    server: bool = False
    dialect: str = ""
    doc: Extra = field(default_factory=_nothing)
    cache: str | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class ToolChoice:
    """Which tools may be called. ``names`` narrows ``auto`` and ``required``; one name and ``required`` forces it."""

    mode: Literal["auto", "none", "required"]
    names: tuple[str, ...] = ()
    custom: bool = False
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class Format:
    """The form of the answer."""

    kind: Literal["text", "json", "schema"]
    schema: Json = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class Thinking:
    """How much to think. ``None`` everywhere leaves it to the model.

    Attributes:
        mode: ``on`` within ``budget``, ``off``, or ``auto``: as the model sees fit.
        effort: ``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh``, ``max``.
        budget: tokens.
        shown: ``none``, ``auto``, ``concise``, ``detailed`` or ``summary``: how much of it the reply shall show.
    """

    mode: Literal["on", "off", "auto"] | None = None
    effort: str | None = None
    budget: int | None = None
    shown: str | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class ChatRequest:
    """A request.

    Attributes:
        dialect: the one it was read from; ``extra`` and opaque parts are its own.
        knobs: sampling and the like, by canonical name (see :data:`KNOBS`); absent is not set.
        needs: keys of this dialect only that change what is said or done: translation is rejected, naming them.
        extra: all other keys: translation drops them by name.
    """

    dialect: str
    model: str
    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel: bool | None = None
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    format: Format | None = None
    thinking: Thinking | None = None
    modalities: list[str] | None = None
    n: int | None = None
    stream: bool = False
    usage_wanted: bool = False
    knobs: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


KNOBS = (
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logprobs", "top_logprobs", "logit_bias", "user", "metadata", "service_tier", "store", "verbosity", "cache_key",
    "cache_retention", "safety_id",
)  # fmt: skip
"""Names that ``ChatRequest.knobs`` may hold."""


@dataclass(slots=True)
class Finish:
    """Why the answer ended. ``native`` is the vendor's own value; ``sequence`` the stop sequence that was hit."""

    reason: FinishReason
    native: str | None = None
    sequence: str | None = None

    @property
    def telling(self) -> bool:
        """Whether it explains an empty answer: a limit, a filter, a named stop sequence."""
        return self.native is not None and (self.reason != "stop" or self.sequence is not None)


@dataclass(slots=True)
class Choice:
    """One answer.

    ``logprobs``: one object for every token, in order: ``token``, ``logprob``, ``bytes``, ``top_logprobs``.
    """

    parts: list[Part]
    finish: Finish
    logprobs: list[Json] | None = None
    extra: Extra = field(default_factory=_nothing)


@dataclass(slots=True)
class ChatReply:
    """A whole answer. ``service_tier`` is as the vendor states it."""

    dialect: str
    id: str
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    created: int | None = None
    service_tier: str | None = None
    extra: Extra = field(default_factory=_nothing)

    @property
    def void(self) -> bool:
        """Whether it is empty without a reason: an upstream failure, however well-formed (pain K8)."""
        ends = [choice.finish for choice in self.choices]
        if any(end.telling for end in ends) or any(map(_says, (part for one in self.choices for part in one.parts))):
            return False
        return not silent(ends, self.usage)


def silent(ends: Iterable[Finish], usage: Usage | None) -> bool:
    """Whether an empty answer is intended: the model stopped by itself, which takes a token where usage is reported."""
    stopped = any(end.reason == "stop" and end.native is not None for end in ends)
    return stopped and (usage is None or usage.total_out > 0)


def _says(part: Part) -> bool:
    if isinstance(part, Text):
        return bool(part.text or part.citations)
    return not isinstance(part, Reasoning) or bool(part.text or part.signature or part.encrypted)

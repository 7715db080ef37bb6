"""What a recording's digest says of its answer, and what a reader or a client made of it, in the same form."""

import json
from dataclasses import dataclass, field

from gwcore.chat import ChatReply, Reasoning, Text, ToolCall
from gwcore.events import gather
from gwcore.wire.sse import SseReader
from tests.fidelity.corpus import CODECS, NAMES, recorded_body, split, streamed

# what the digest leaves out or reads otherwise; each was looked at
ELSEWHERE = {
    # speech: its transcript is the text
    "0733fdda84ba7c0e": "text", "a6963181c3268973": "text", "08ac71477b46ee9e": "text", "7c7f9fbb750ed331": "text",
    "ed3df365ee383226": "text",
    # the words of reasoning_details
    "75256be8571c14aa": "reasoning",
    # the summary's closing event is not what its deltas said; they cannot be unsaid
    "707c7525b7f1e129": "reasoning",
}  # fmt: skip
# answers that are none: an end mark and nothing before it, an error instead of a stream
UNREADABLE = {"9eefabc61fcb3c17", "0ebf9f00fecfc4b9"}


@dataclass
class Said:
    """One answer. ``calls``: names and parsed arguments."""

    text: str = ""
    reasoning: str = ""
    calls: list = field(default_factory=list)
    refusal: str = ""
    finish: str | None = None
    usage: tuple | None = None


def arguments(text):
    """Parsed where they parse; nothing and an empty object are the same."""
    if not isinstance(text, str):
        return text or {}
    try:
        return json.loads(text) or {}
    except ValueError:
        return text or {}


def wanted(record):
    """The digest."""
    digest = record["digest"]
    return Said(
        digest.get("text") or "",
        digest.get("reasoning") or "",
        [(call["name"], arguments(call["arguments"])) for call in digest.get("tool_calls") or []],
        digest.get("refusal") or "",
    )


def of_reply(reply: ChatReply):
    """A reply in canonical form: its first choice."""
    parts = reply.choices[0].parts if reply.choices else []
    return Said(
        "".join(p.text for p in parts if isinstance(p, Text) and not p.refusal),
        "".join(p.text for p in parts if isinstance(p, Reasoning)),
        [(p.name, arguments(p.arguments)) for p in parts if isinstance(p, ToolCall)],
        "".join(p.text for p in parts if isinstance(p, Text) and p.refusal),
        reply.choices[0].finish.reason if reply.choices else None,
    )


def differs(record, said):
    """The fields in which an answer is not the digest's."""
    oracle = wanted(record)
    return [
        (name, getattr(said, name), getattr(oracle, name))
        for name in ("text", "reasoning", "calls", "refusal")
        if getattr(said, name) != getattr(oracle, name) and ELSEWHERE.get(record["id"]) != name
    ]


def events_of(record, how="whole"):
    """The events of a recorded stream."""
    reader, frames = CODECS[NAMES[record["dialect"]]].reader(), SseReader()
    events = []
    for piece in split(recorded_body(record), how):
        for frame in frames.feed(piece):
            events += reader.read(frame)
    for frame in frames.close():
        events += reader.read(frame)
    return [*events, *reader.close()]


def reply_of(record, how="whole"):
    """The recorded answer in canonical form."""
    dialect = NAMES[record["dialect"]]
    if streamed(record):
        return gather(events_of(record, how), dialect)
    return CODECS[dialect].read_reply(json.loads(recorded_body(record)))

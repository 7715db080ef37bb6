"""Recorded answers relayed to clients of another dialect, without a network: the translation alone."""

from gwcore.codec import Crossing
from gwcore.translate import Translation
from tests.fidelity.corpus import DIALECTS, NAMES, recorded_body, split, streamed

REQUESTS = {
    "openai.chat": {"model": "asked", "messages": [{"role": "user", "content": "hi"}]},
    "openai.responses": {"model": "asked", "input": "hi"},
    "anthropic.messages": {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "gemini.generate": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}


def translation(source, client, *, stream, usage=True):
    crossing = Crossing("m", "asked", frozenset(), stream, usage, 7, REQUESTS[client])
    return Translation(DIALECTS[client], DIALECTS[source], "/x", crossing, b"")


def relayed(record, client, how="whole", *, usage=True):
    """The bytes a streaming client gets, and the translation."""
    way = translation(NAMES[record["dialect"]], client, stream=True, usage=usage)
    stream = way.stream()
    if not streamed(record):
        return stream.spelled(way.read(recorded_body(record))), way
    out = b"".join(stream.feed(piece) for piece in split(recorded_body(record), how))
    return out + stream.close(), way


def whole(record, client):
    """The body a client gets that asked for no stream, and the translation."""
    way = translation(NAMES[record["dialect"]], client, stream=False)
    body = recorded_body(record)
    reply = way.stream().gathered(body) if streamed(record) else way.read(body)
    return way.written(reply), way

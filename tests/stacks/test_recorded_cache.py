"""Recorded answers, kept by the cache and told again in either mode: a client reads the same, or the upstream is asked anew."""

import base64
import json

import pytest

from gwcore.call import Call
from gwcore.catalog import Catalog
from gwcore.events import gather
from gwcore.reply import Reply
from gwcore_cache.entry import Entry
from gwcore_cache.record import events_of, is_good
from gwcore_cache.replay import told

ALL = {dialect.name: dialect for dialect in Catalog().dialects()}
CHAT = {
    ("openai-chat", "chat.completions"): "openai.chat",
    ("openai-chat", "openai-compat:chat.completions"): "openai.chat",
    ("openai-responses", "responses"): "openai.responses",
    ("anthropic-messages", "messages"): "anthropic.messages",
    ("gemini-generate", "generateContent"): "gemini.generate",
    ("gemini-generate", "streamGenerateContent"): "gemini.generate",
}
TOLD = ("text", "name", "arguments", "id", "signature", "encrypted", "data", "redacted", "doc")
MOST_UNSAYABLE = 0.2


async def nowhere(_message):
    pass


def asked(dialect, document, stream):
    spoken = ALL[dialect]
    gemini = dialect == "gemini.generate"
    route = next(r for r in spoken.routes if r.operation == "chat" and (r.stream == "always") == (stream and gemini))
    document = {**document, **({} if gemini else {"stream": stream})}
    if stream and dialect == "openai.chat":
        document["stream_options"] = {"include_usage": True}
    return Call(
        id="x", dialect=spoken, route=route, reply=Reply(nowhere), headers=[], query=b"alt=sse" if gemini else b"",
        raw=json.dumps(document).encode(), document=document, model=document.get("model", "m"), stream=stream,
    )  # fmt: skip


def read(dialect, stream, body):
    """What a client finds in an answer."""
    reply = gather(events_of(ALL[dialect], body), dialect) if stream else ALL[dialect].chat.read_reply(json.loads(body))
    return [
        (
            choice.finish.reason,
            [
                (type(part).__name__, *((n, json.loads(v) if n == "arguments" else v) for n in TOLD if (v := getattr(part, n, None))))
                for part in choice.parts
            ],
        )
        for choice in reply.choices
    ]  # fmt: skip


def answers(recordings, dialect):
    for record in recordings:
        request, response = record["request"], record["response"]
        if CHAT.get((record["dialect"], record["endpoint"])) != dialect or response.get("status", 200) != 200:
            continue
        if request is None or not isinstance(request.get("body"), dict):
            continue
        body = base64.b64decode(response["body_b64"]) if "body_b64" in response else response.get("body", "").encode()
        form = "sse" if body.lstrip().startswith((b"data:", b"event:", b":")) else "json"
        if is_good(ALL[dialect], "chat", form, body):
            yield request["body"], form, body


@pytest.mark.parametrize("dialect", sorted(set(CHAT.values())))
def test_recorded_answers(dialect, recordings):
    count = unsayable = 0
    for document, form, body in answers(recordings, dialect):
        # "?" is no stream's shape: even in the same mode the codecs must tell it
        entry = Entry(dialect, "chat", form, "?", b"", body, 0, 1, 1, 1, None, None, "m", "s")
        for stream in (False, True):
            count += 1
            found = told(entry, asked(dialect, document, stream), ALL)
            if found is None:
                unsayable += 1
            else:
                assert read(dialect, stream, found.body) == read(dialect, form == "sse", body)
    assert count >= 40
    assert unsayable <= MOST_UNSAYABLE * count

"""Every field of every recorded whole answer, through every other dialect: told, named in ``x-gwcore-dropped``, or known to say nothing.

A field is told where the client's bytes change with its value. ``SAYS_NOTHING`` holds those that are neither, and why.
"""

import json
import re
from collections import defaultdict
from functools import cache

import pytest

from gwcore.errors import Malformed
from gwcore.testing.upstream import sse
from tests.fidelity.corpus import MISSING, NAMES, SPECS, answers, recorded_body, requests, streamed
from tests.fidelity.oracle import UNREADABLE
from tests.fidelity.relayed import translation

pytestmark = pytest.mark.skipif(not requests(), reason=MISSING)
SAYS_NOTHING = {
    # a constant of the dialect, or a number that the other dialect counts by itself
    r"^(\*\.|choices\.\*\.|candidates\.\*\.content\.|output\.\*\.|message\.)*(message\.|delta\.)?(type|role|object|index)$",
    r"tool_calls\.\*\.(type|index)$", r"annotations\.\*\.(type|index)$", r"summary\.\*\.type$", r"caller\.type$",
    r"reasoning_details\.\*\.(type|format|id|index)$", r"message\.content\.\*\.closed$", r"citations\.\*\.type$",
    # the client hears the name that it asked for, its own clock, and ids of its own dialect
    r"^(\*\.)?(model|modelVersion)$", r"^(created|created_at|completed_at|createTime|id|request_id|generationId)$", r"^output\.\*\.id$",
    # parts of a count whose sum is told, and bills of the vendor, which cost and its header are worked out from
    r"^(\*\.)?(usage|usageMetadata)\.", r"^usage_breakdown\.", r"^copilot_usage\.", r"^cost\.", r"^billing\.", r"^service_tier$",
    # how it was served and routed, and how long that took
    r"^(timings|time_info|x_groq|venice_parameters|metadata)\.", r"^(provider|system_fingerprint)$",
    r"^choices\.\*\.message\.(padding|provider_metadata\.)", r"content_filter_results\.",
    # the vendor's own word for an end that the other dialect's word tells
    r"(finishReason|finishMessage|native_finish_reason|stop_reason|incomplete_details\.reason)$", r"^stop_sequence$",
    # the same words twice: beside their list, beside the items, in a mean of what is listed, as a number of a vocabulary
    r"^choices\.\*\.message\.reasoning$", r"^output_text$", r"avgLogprobs$", r"logprobs\.\*\.bytes\.", r"tokenId$",
    # the request, repeated
    r"^(parallel_tool_calls|reasoning|reasoning\..*|store|temperature|text\..*|tool_choice|tool_choice\..*|tools\..*|top_p)$",
    r"^(truncation|prompt_cache_retention|prompt_cache_key|frequency_penalty|max_output_tokens|max_tool_calls|background)$",
    r"^(previous_response_id|instructions|instructions\..*|prompt\..*)$",
    # where in the words a source belongs, and the source's own words and seal: no two dialects count or quote alike
    r"(end_index|start_index|startIndex|endIndex|segment\.text|cited_text|encrypted_index|url_citation\.content)$",
    r"annotations\.\*\.(file_id|container_id)$", r"retrievedContext\.", r"searchEntryPoint\.", r"webSearchQueries\.",
    # how a picture or a sound was made, beside the picture and the sound
    r"^output\.\*\.(background|output_format|quality|revised_prompt|size|result)$", r"audio\.(id|expires_at)$",
    # what the item is for, to clients of its own dialect alone: a preamble, a group of tools
    r"^output\.\*\.(phase|namespace)$",
}  # fmt: skip
CLOCK = re.compile(rb'"(created|created_at|completed_at)":\d+')


def leaves(document, path=()):
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from leaves(value, (*path, key))
    elif document not in (None, "", False, 0):
        yield path, document


def shown(path):
    return ".".join("*" if isinstance(key, int) else key for key in path)


def with_other(value):
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value + 1


def put(document, path, value):
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = put(document[path[0]], path[1:], value)
    return copy


def said(dialect, document, client):
    """What a client gets, and the names of what it does not."""
    way = translation(dialect, client, stream=False)
    try:
        out = way.written(way.read(json.dumps(document).encode()))
    except Malformed as error:
        return str(error).encode(), ()
    return CLOCK.sub(b"", out), tuple(way.crossing.dropped)


@cache
def samples(dialect):
    """Path of a field → up to three places where it was recorded: the record's id, its answer, the way to it and its value."""
    found = defaultdict(list)
    for record in answers(dialect):
        if record["id"] in UNREADABLE or streamed(record):
            continue
        document, seen = json.loads(recorded_body(record)), set()
        for path, value in leaves(document):
            name = shown(path)
            if name not in seen and len(found[name]) < 3:
                seen.add(name)
                found[name].append((record["id"], document, path, value))
    return found


def silent(dialect):
    """Paths of fields that change nothing and are named nowhere, with an example."""
    lost = {}
    for name, places in samples(dialect).items():
        if any(re.search(pattern, name) for pattern in SAYS_NOTHING):
            continue
        for id_, document, path, value in places:
            changed = put(document, path, with_other(value))
            for client in SPECS:
                if client == dialect:
                    continue
                before, dropped = base(id_, client)
                if named(document, path, dropped):
                    continue
                if said(dialect, changed, client) == (before, dropped):
                    lost.setdefault(name, (id_, client, str(value)[:40]))
    return lost


def named(document, path, dropped):
    """Whether a key on the way, or the type or name of an object on the way, is among the names."""
    words = {word for name in dropped for word in re.split(r"[ .]", name)}
    words |= {"logprobsResult"} if "logprobs" in words else set()
    for key in path:
        if key in words or (
            isinstance(document, dict) and {str(document.get("type")), str(document.get("name"))} & words
        ):
            return True
        document = document[key]
    return False


@cache
def base(id_, client):
    record = next(r for r in answers(None) if r["id"] == id_)
    return said(NAMES[record["dialect"]], json.loads(recorded_body(record)), client)


@pytest.mark.parametrize("dialect", SPECS)
def test_no_field_of_an_answer_is_lost_without_a_word(dialect):
    assert len(samples(dialect)) > 60
    assert silent(dialect) == {}


def test_a_field_that_is_lost_without_a_word_is_seen(monkeypatch):
    """The negative control: a reader that throws away what it has no place for."""
    monkeypatch.setattr("gwcore_providers.openai.chat_reply.unsaid", lambda *_: [])
    base.cache_clear()
    lost = silent("openai.chat")
    base.cache_clear()
    assert "choices.*.logprobs.reasoning_content.*.token" in lost and "citations.*" in lost


@pytest.mark.parametrize("client", ["openai.responses", "anthropic.messages", "gemini.generate"])
@pytest.mark.parametrize("at", [0, 1, 2], ids=["first", "with the end", "behind the end"])
def test_what_stands_beside_the_choices_of_any_chunk_is_named(client, at):
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
    ]
    chunks[at]["search_results"] = [{"url": "https://a.example"}]
    way = translation("openai.chat", client, stream=True)
    stream = way.stream()
    body = b"".join(map(stream.feed, sse(*({"id": "c", "model": "m", **one} for one in chunks), "[DONE]")))
    assert b"hello" in body + stream.close() and way.crossing.dropped == ["search_results"]


DEEPSEEK = {
    "token": "hm", "logprob": -0.5, "bytes": [104, 109], "top_logprobs": [],
}  # fmt: skip


@pytest.mark.parametrize("client", ["openai.responses", "anthropic.messages", "gemini.generate"])
def test_logprobs_of_thoughts_are_named_in_a_stream_too(client):
    chunks = [
        {
            "delta": {"role": "assistant", "content": None, "reasoning_content": "hm"},
            "logprobs": {"reasoning_content": [DEEPSEEK]},
        },
        {"delta": {"content": "hello"}, "logprobs": {"content": [DEEPSEEK], "reasoning_content": None}},
        {"delta": {}, "finish_reason": "stop"},
    ]
    way = translation("openai.chat", client, stream=True)
    stream = way.stream()
    frames = sse(*({"id": "c", "model": "m", "choices": [{"index": 0, **one}]} for one in chunks), "[DONE]")
    body = b"".join(map(stream.feed, frames))
    assert "logprobs.reasoning_content" in way.crossing.dropped and b"hello" in body + stream.close()

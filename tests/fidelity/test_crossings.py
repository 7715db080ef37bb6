"""Every recorded request said in every other dialect: nothing is lost, the vendors' specifications accept it."""

import base64
import binascii
import importlib.util
import json
import re
from functools import cache

import pytest

from gwcore.chat import Text, ToolCall, ToolResult
from tests.fidelity.corpus import CODECS, MISSING, NAMES, RECORDINGS, SPECS, read, requests
from tests.fidelity.facts import facts
from tests.fidelity.table import MODELS, PAGE, counted, judge, page, translated

pytestmark = [pytest.mark.skipif(not requests(), reason=MISSING), pytest.mark.timeout(300)]
PAIRS = [(a, b) for a in SPECS for b in SPECS if a != b]


def test_no_fact_is_lost():
    table, _, lost = counted()
    assert not lost, (len(lost), lost[:5])
    total = sum(n for features in table.values() for counts in features.values() for n in counts.values())
    kept = sum(counts["kept"] for features in table.values() for counts in features.values())
    assert total > 7_000 and kept > 0.65 * total


def test_the_published_table_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.fidelity.table"


@pytest.mark.parametrize("kind", [Text, ToolCall, ToolResult])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_writer_that_loses_a_part_is_caught(source, target, kind):
    """The negative control: a writer that forgets one part, or one setting, is told so by the judge."""

    def forgetful(request, crossing):
        for message in request.messages:
            message.parts = [part for part in message.parts if not isinstance(part, kind)]
        request.messages = [message for message in request.messages if message.parts]
        return CODECS[target].write_request(request, crossing)

    caught = 0
    for record in requests(source)[:60]:
        parts = [p for m in read(record).messages for p in m.parts if isinstance(p, kind)]
        if parts and any(getattr(p, "text", "x") for p in parts):
            fates = {fate for _, fate in judge(record, target, forgetful)}
            caught += bool(fates & {"lost", "refused"})
            assert fates & {"lost", "refused"}, record["id"]
    assert caught


# ── the vendors' specifications ──────────────────────────────────────────────────────────────────────────────────────


@cache
def specification():
    module = importlib.util.spec_from_file_location("gwcore_speccheck", RECORDINGS / "speccheck.py")
    loaded = importlib.util.module_from_spec(module)
    module.loader.exec_module(loaded)
    return loaded.Spec()


# what the recorded client itself got wrong, by the same vendor's rules; translation passes schemas and texts on as they are
FAULTY: dict[str, str] = {}


@pytest.mark.parametrize("target", SPECS)
def test_the_vendors_specification_accepts_what_is_sent(target):
    spec, wrong, sent = specification(), [], 0
    for record in requests():
        if NAMES[record["dialect"]] == target or record["id"] in FAULTY:
            continue
        written = translated(record, target)[3]
        if written is None:
            continue
        sent += 1
        written = json.loads(json.dumps(written))
        if found := spec.errors(SPECS[target], "request", written):
            wrong.append((record["dialect"], record["id"], found[0]))
    assert sent > 180
    assert not wrong, (len(wrong), wrong[:8])


def test_the_specification_refuses_what_is_wrong():
    spec = specification()
    for target in SPECS:
        assert spec.errors(
            SPECS[target], "request", {"model": "m", "messages": [{"role": 7}], "input": 5, "contents": 3}
        )


# ── read without our readers ─────────────────────────────────────────────────────────────────────────────────────────

_CONTENT = (
    "messages",
    "contents",
    "input",
    "system",
    "systemInstruction",
    "system_instruction",
    "instructions",
    "tools",
)
_DATA = re.compile(r"data:[^;,]*;base64,(.*)", re.DOTALL)
LONG = 12  # letters: shorter strings are words of the wire format


def leaves(value, *, keys=True):
    """Every string, those inside JSON text and data URLs and base64 texts, too."""
    if isinstance(value, dict):
        for key, one in value.items():
            if keys:
                yield key
            yield from leaves(one, keys=keys)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one, keys=keys)
    elif isinstance(value, str):
        yield value
        if found := _DATA.match(value):
            yield from leaves(found.group(1), keys=keys)
        elif value[:1] in "[{":
            try:
                yield from leaves(json.loads(value), keys=keys)
            except ValueError:
                pass
        elif len(value) % 4 == 0 and re.fullmatch(r"[A-Za-z0-9+/]+=*", value):
            try:
                yield base64.b64decode(value).decode()
            except (binascii.Error, ValueError):
                pass


def content(document):
    return {key: value for key, value in document.items() if key in _CONTENT}


# keys whose value is a word or an id of the wire format, a mark, or signed by one vendor
_SKIP = {
    "id", "call_id", "tool_call_id", "tool_use_id", "signature", "thoughtSignature", "thought_signature", "thought",
    "encrypted_content", "reasoning_content", "reasoning", "reasoning_details", "summary", "thinking", "annotations",
    "citations", "type", "status", "role", "cache_control", "$schema", "$id", "$comment", "format", "detail", "mimeType",
    "mime_type", "media_type", "filename", "displayName", "display_name", "title", "syntax", "definition", "name_",
    "additionalProperties", "strict", "index", "behavior", "phase",
}  # fmt: skip


def said(value):
    """What the source says, without wire words and what is signed."""
    if isinstance(value, dict):
        if value.get("type") in ("thinking", "redacted_thinking", "reasoning") or value.get("thought") is True:
            return {}
        return {k: said(v) for k, v in value.items() if k not in _SKIP}
    return [said(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_long_string_of_the_source_is_in_what_is_sent(source, target):
    """Found by searching, whatever our readers believe a request means."""
    missing, looked = [], 0
    for record in requests(source):
        written = translated(record, target)[3]
        if written is None:
            continue
        there = "\n".join(leaves(written))
        for leaf in leaves(said(content(record["request"]["body"])), keys=False):
            if len(leaf) >= LONG and leaf[:1] not in "[{" and not leaf.startswith("data:"):
                looked += 1
                if leaf not in there:
                    missing.append((record["id"], leaf[:100]))
    assert looked > 100
    assert not missing, (len(missing), looked, missing[:8])


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def spoken(request):
    """What is said in turns, in order, and where each result stands: behind which call, before which next words."""
    order, results, calls = [], {}, {}
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, ToolCall):
                calls[part.id] = len(calls)
                order.append(part.name)
            elif isinstance(part, ToolResult):
                results[calls.get(part.id, -1)] = sum(isinstance(one, str) for one in order)
            elif isinstance(part, Text) and part.text and message.role == "assistant":
                order.append(part.text)
            elif isinstance(part, Text) and part.text and message.role == "user":
                order.append((part.text,))
    return order, results


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_turns_keep_their_order_and_results_follow_their_calls(source, target):
    wrong = []
    for record in requests(source):
        _, _, dropped, written = translated(record, target)
        if written is None or "the place of words behind a tool call" in dropped:
            continue
        before = spoken(read(record))
        after = spoken(CODECS[target].read_request(json.loads(json.dumps(written)), MODELS[target], stream=False))
        kept = [one for one in after[0] if one in before[0]]
        if kept != [one for one in before[0] if one in after[0]] or before[1] != after[1]:
            wrong.append(record["id"])
    assert not wrong, wrong


def test_facts_tell_requests_apart():
    """The negative control of the facts: two different recordings never say the same."""
    seen = {}
    for record in requests():
        key = json.dumps(sorted((f, v, n) for (f, v), n in facts(read(record)).items()))
        seen.setdefault(key, set()).add(json.dumps(content(record["request"]["body"]), sort_keys=True))
    assert len(seen) > 300

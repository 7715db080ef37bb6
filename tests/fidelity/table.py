"""Every recorded request in every other dialect, fact by fact: ``python -m tests.fidelity.table`` writes docs/fidelity.md.

A fact is **kept** where the translated request, read again, says it; **said otherwise** where it stands there in another
form, which :func:`otherwise` checks; **dropped by name** where ``x-gwcore-dropped`` names it; **refused by name** where
the whole request is (422), and then every fact of it is. What is none of these is **lost**.
"""

import base64
import copy
import json
import re
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

from gwcore.errors import BadRequest, Untranslatable
from gwcore_providers.quirks import OPENAI_CHAT
from tests.fidelity.corpus import CODECS, NAMES, SPECS, crossing_for, read, requests
from tests.fidelity.facts import LATER, facts

PAGE = Path(__file__).parent.parent.parent / "docs" / "fidelity.md"
FATES = ("kept", "said otherwise", "dropped", "refused", "lost")
# a model of each vendor that takes most of what there is, and how that vendor's own API is known to speak
MODELS = {
    "openai.chat": "gpt-5.2",
    "openai.responses": "gpt-5.2",
    "anthropic.messages": "claude-opus-4-6",
    "gemini.generate": "gemini-3-pro-preview",
}
QUIRKS = {"openai.chat": OPENAI_CHAT | {"custom_tools"}}
# feature → what its name in x-gwcore-dropped looks like; any other feature is named as it is called
_NAMED = {
    "cache mark": r"cache_control",
    "citation in the history": r"citations",
    "grammar of a custom tool": r"tools\.custom\.format",
    "image detail": r"detail",
    "JSON mode": r"response_format",
    "max tokens": r"max_tokens below 16",
    "no parallel tool calls": r"parallel_tool_calls",
    "participant's name": r"messages\.name",
    "reasoning effort": r"reasoning(_effort.*)?",
    "reasoning signature": r"reasoning.*",
    "reasoning text": r".*reasoning.*",
    "stop sequences": r"stop",
    "strict tool": r"tools\.strict",
    "tool call signature": r"reasoning of another vendor",
    "tool choice": r"tool_choice\.allowed_tools",
    "temperature": r"temperature( above 1)?",
}  # fmt: skip
_TIERS = {"standard_only": "default", "standard": "default", "on_demand": "default"}


def otherwise(feature, value, after):
    """Whether a fact stands in the translated request in another form."""
    said = {v for f, v in after if f == feature}
    if feature.endswith("in a tool result"):  # beside the result, or in the message that follows
        data = json.loads(value)[1]
        return any(json.loads(v)[1] == data for f, v in after if f in ("image", "file", "audio", "video"))
    if feature == "tool result":
        place, text = json.loads(value)
        return bool({json.dumps([place, one], ensure_ascii=False) for one in (f"Error: {text}", LATER)} & said)
    if feature == "tool error":
        return any(v.startswith(f'[{value}, "Error: ') for f, v in after if f == "tool result")
    if feature == "file":  # a plain document in words
        kind, data = json.loads(value)
        try:
            words = base64.b64decode(data).decode()
        except ValueError:
            return False
        return kind == "file" and any(v.endswith(words) for f, v in after if f == "user text")
    if feature == "custom tool":
        return ("tool", value) in after
    if feature == "service_tier":
        return _TIERS.get(value) in said
    if feature == "JSON mode":
        return any("JSON object" in v for f, v in after if f == "system text")
    return False


def fate(fact, after, dropped):
    """What became of a fact that the translated request does not say word for word."""
    feature, value = fact
    if otherwise(feature, value, after):
        return "said otherwise"
    name = value if feature in ("other key", "key of one vendor") else feature
    pattern = _NAMED.get(feature, re.escape(name))
    return "dropped" if any(re.fullmatch(pattern, one) for one in dropped) else "lost"


def translated(record, target, write=None):
    """Facts before, facts after and names of what was dropped; or facts before and the refusal."""
    request = read(record)
    before = facts(request)
    crossing = crossing_for(record, MODELS[target], quirks=QUIRKS.get(target, frozenset()))
    try:
        written = (write or CODECS[target].write_request)(request, crossing)
    except (Untranslatable, BadRequest) as refusal:
        return before, refusal, (), None
    again = CODECS[target].read_request(copy.deepcopy(written), MODELS[target], stream=False)
    return before, facts(again), crossing.dropped, written


def refused_for(refusal):
    return refusal.message.partition(" cannot be translated")[0]


def judge(record, target, write=None):
    """(fact, fate) of every fact of a recorded request."""
    before, after, dropped, _ = translated(record, target, write)
    if isinstance(after, Exception):
        return [(fact, "refused") for fact in before.elements()]
    missing = before - after
    out = [(fact, "kept") for fact in (before - missing).elements()]
    return out + [(fact, fate(fact, after, dropped)) for fact in missing.elements()]


@cache
def counted():
    """(source, target) → feature → fate → count; and what whole requests were refused for."""
    table = defaultdict(lambda: defaultdict(Counter))
    refusals, lost = Counter(), []
    for record in requests():
        source = NAMES[record["dialect"]]
        for target in SPECS:
            if target == source:
                continue
            _, after, _, _ = translated(record, target)
            if isinstance(after, Exception):
                refusals[source, target, refused_for(after)] += 1
            for fact, found in judge(record, target):
                table[source, target][fact[0]][found] += 1
                if found == "lost":
                    lost.append((record["id"], source, target, *fact))
    return table, refusals, lost


def _cell(counts):
    shown = [f"{counts[f]} {f}" for f in FATES if counts[f]]
    return ", ".join(shown)


def page():
    """The text of docs/fidelity.md."""
    table, refusals, _ = counted()
    total = Counter()
    for features in table.values():
        for counts in features.values():
            total.update(counts)
    out = [HEAD.format(requests=len(requests()), crossings=3 * len(requests()))]
    out.append("".join(f"| {f} | {total[f]} |\n" for f in FATES))
    for source in SPECS:
        targets = [t for t in SPECS if t != source]
        out.append(f"\n## From `{source}`\n\n| |{'|'.join(f' to `{t}` ' for t in targets)}|\n|---|---|---|---|\n")
        features = sorted({f for t in targets for f in table[source, t]}, key=str.lower)
        out += [f"| {f} | {' | '.join(_cell(table[source, t][f]) for t in targets)} |\n" for f in features]
    out.append(REFUSALS)
    whats = sorted({what for _, _, what in refusals}, key=str.lower)
    for what in whats:
        pairs = [f"{s} → {t} ({n})" for (s, t, w), n in sorted(refusals.items()) if w == what]
        out.append(f"| {what} | {', '.join(pairs)} |\n")
    return "".join(out)


HEAD = """<!-- generated by python -m tests.fidelity.table from recorded traffic: change the code, not this page -->

# What translation keeps

{requests} recorded requests of real clients, each translated to the three other dialects: {crossings} translations, counted
fact by fact. A fact is one text, one image, one tool with its schema, one call with its arguments, one signature, one
setting. *Kept*: the translated request contains the same. *Said otherwise*: it contains the fact in another form, which is
checked (an image of a tool result in the message that follows, a plain-text document as text). *Dropped* facts are always
named in the header `x-gwcore-dropped`, and are only tuning parameters or content signed by another vendor. *Refused* counts
every fact of a request that was rejected as a whole (422), by the name of what cannot be represented. *Lost* must be 0.

The target is each vendor's own API with a model that supports most features. If both dialects are the same, nothing is
translated: the bytes pass unchanged.

| | facts |
|---|--:|
"""
REFUSALS = """
## What is refused

| refused by the name of | from → to (requests) |
|---|---|
"""

if __name__ == "__main__":
    if not requests():
        raise SystemExit("GWCORE_RECORDINGS is unset: there is nothing to count")
    if "--check" in sys.argv:
        raise SystemExit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")

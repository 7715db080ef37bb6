"""What goes wrong with an upstream, and what must follow: one list for every dialect, mode and pair of dialects.

``python fallback_faults.py`` prints the table of ``docs/reference/faults.md``.
"""

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))  # as a script

from fallback_world import WIRES

from gwcore.testing.upstream import Answer, sse

ELSEWHERE, ENDS, TRUNCATED, SERVED = (
    "another target answers",
    "the client gets the upstream's error",
    "the stream ends with an error",
    "the answer is whole",
)
PATIENCE = {True: ", timeout: {first_byte: 700ms, idle: 700ms}", False: ""}
"""Time-outs of the upstreams, by whether the row is one that hangs: what does not hang may take its time on a busy machine."""
STATUSES = {
    **dict.fromkeys((401, 403, 408, 409, 429, 500, 502, 503, 504, 529), ELSEWHERE),
    **dict.fromkeys((400, 404, 413, 422, 451), ENDS),
}


def size(pieces):
    return sum(map(len, pieces))


def faults(wire, stream):
    """Name → what the first upstream does, and what must follow. What depends on the mode is there only in that mode."""
    for status, decision in STATUSES.items():
        yield f"status {status}", Answer(status, body=b'{"error": {"message": "no"}}'), decision
    yield "reset before the head", Answer(reset=True), ELSEWHERE
    yield "nothing but a close", Answer(raw=b""), ELSEWHERE
    yield "not HTTP", Answer(raw=b"\x00\x01\x02\x03\r\n\r\n"), ELSEWHERE
    yield "hangs before the head", Answer(delay_head=math.inf), ELSEWHERE
    if not stream:
        body = json.dumps(wire.whole("hello")).encode()
        yield "cut inside the body", Answer(body=body, cut_after=len(body) // 2), ELSEWHERE
        yield "reset inside the body", Answer(body=body, cut_after=len(body) // 2, reset=True), ELSEWHERE
        yield "hangs inside the body", Answer(body=body, stall_after=len(body) // 2), ELSEWHERE
        return
    opening, content, end = sse(*wire.opening), sse(wire.content("hel")), sse(*wire.finish)
    whole, begun = [*opening, *content, *end], size(opening) + size(content)
    yield "cut after the opening", Answer(body=whole, cut_after=size(opening)), ELSEWHERE
    yield "reset after the opening", Answer(body=whole, cut_after=size(opening), reset=True), ELSEWHERE
    yield "hangs after the opening", Answer(body=whole, stall_after=size(opening)), ELSEWHERE
    yield (
        "ends after the opening",
        Answer(body=opening or b"", headers=[("content-type", "text/event-stream")]),
        ELSEWHERE,
    )
    yield "error frame before content", Answer(body=[*opening, *sse(wire.failure)]), ELSEWHERE
    tool = [*opening, *sse(*wire.tool)]
    yield "cut inside a tool call", Answer(body=[*tool, *end], cut_after=size(tool)), TRUNCATED
    yield "cut after content", Answer(body=whole, cut_after=begun), TRUNCATED
    yield "reset after content", Answer(body=whole, cut_after=begun, reset=True, gap=0.05), TRUNCATED
    yield "hangs after content", Answer(body=whole, stall_after=begun), TRUNCATED
    yield "error frame after content", Answer(body=[*opening, *content, *sse(wire.failure)]), TRUNCATED
    yield "ends after content", Answer(body=[*opening, *content]), TRUNCATED
    if len(end) > 1 and wire.provider != "gemini":
        yield "cut before the last event", Answer(body=whole, cut_after=size(whole) - len(end[-1])), TRUNCATED
    yield "cut inside the last event", Answer(body=whole, cut_after=size(whole) - len(end[-1]) // 2), TRUNCATED
    yield "cut behind the last event", Answer(body=whole, cut_after=size(whole)), SERVED
    yield (
        "reset behind the last event",
        Answer(body=[*whole, b": x\n\n"], cut_after=size(whole), reset=True, gap=0.05),
        SERVED,
    )
    yield "hangs behind the last event", Answer(body=whole, stall_after=size(whole)), SERVED


def blames(name, decision):
    """Whether the fault counts against the deployment."""
    return decision in {ELSEWHERE, TRUNCATED} and name not in {"status 409", "status 429"}


HEAD = """<!-- Written by plugins/fallback/tests/fallback_faults.py; do not edit. -->
# What follows a fault

What the client gets when the first of two targets fails, and whether the failure counts against the target. Each cell is a
test: the same decision in every dialect, whether client and target speak the same or the answer is translated. *whole* is a
JSON answer, *stream* an event stream.

"""


def rows():
    """Name, decision for a whole answer, for a stream, blame; the decisions of all dialects are one, or it raises."""
    found = {}
    for wire in WIRES.values():
        for stream in (False, True):
            for name, _, decision in faults(wire, stream):
                known = found.setdefault(name, {}).setdefault(stream, decision)
                assert known == decision
    for name, by_mode in found.items():
        whole, streamed = by_mode.get(False), by_mode.get(True)
        yield name, whole or "–", streamed or "–", "yes" if blames(name, whole or streamed) else "no"


def page():
    """The whole page."""
    lines = [
        f"Client dialects: {', '.join(f'`{name}`' for name in WIRES)}.\n",
        "| the first target | whole | stream | counts against it |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows()),
    ]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")

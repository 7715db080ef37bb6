"""Every chat dialect, stream mode and fault: the same decision everywhere (pains F1-F3, F6, F10, D2-D4; acceptance F8, F9)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fallback_faults import ELSEWHERE, ENDS, PATIENCE, SERVED, TRUNCATED, blames, faults, page
from fallback_world import WIRES, world

from gwcore import outcomes
from gwcore.testing.upstream import Answer, sse


async def decide(w, stream, answer):
    """What happened: the decision, as far as the upstreams and the client can tell; and whether the first is blamed."""
    for one in w.plugin.fleet.deployments.values():
        one.breaker.close()
        one.credential.close()
    before = w.calls
    w.ups["a"].script(replace(answer, hang_up=True))  # else the next would find a pooled connection, and be sent twice
    other = w.ups["b"].default = w.wire.answer(stream, "from b")
    seen = await w.ask(stream)
    first = w.plugin.fleet.deployments["a/m"]
    blamed = bool(first.breaker.fails + first.credential.opens)
    calls = tuple(w.calls[name] - before[name] for name in "ab")
    body = b"".join(other.pieces())
    if calls == (1, 1) and seen.status == 200 and seen.body == body and seen.whole:
        assert seen.headers["x-gwcore-upstream"] == "b" and seen.headers["x-gwcore-attempts"] == "2"
        assert seen.headers["x-gwcore-failed"].startswith("a/m ")
        return ELSEWHERE, blamed
    if calls == (1, 0) and seen.status >= 400 and seen.whole and b"data:" not in seen.body:
        assert json.loads(seen.body)
        return ENDS, blamed
    if calls == (1, 0) and stream and seen.status == 200 and seen.whole and seen.body == b"".join(w.wire.frames("hel")):
        return SERVED, blamed
    begun = b"".join(sse(*w.wire.opening, *(w.wire.tool if b"Par" in seen.body else [w.wire.content("hel")])))
    if calls == (1, 0) and seen.status == 200 and seen.body.startswith(begun) and seen.whole:
        rest = seen.body[len(begun) :]
        assert b"error" in rest and b"[DONE]" not in rest and b"from b" not in seen.body and rest.endswith(b"\n\n")
        return TRUNCATED, blamed
    return f"{calls} {seen.status} {seen.body!r}", blamed


async def table(dialect, stream, wanted=None):
    """The rows that are not as they should be."""
    wrong = {}
    for hangs, times in PATIENCE.items():
        async with world(dialect=dialect, upstream=times, fallback="{retry: {per_target: 0}}") as w:
            for name, answer, expected in faults(w.wire, stream):
                if name.startswith("hangs") is hangs and (wanted is None or name in wanted):
                    decision = await decide(w, stream, answer)
                    if decision != (expected, blames(name, expected)):
                        wrong[name] = decision
    return wrong


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", WIRES)
async def test_the_same_decision_everywhere(dialect, stream):
    assert await table(dialect, stream) == {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", WIRES)
async def test_nobody_there(dialect, stream):
    """A refused connection, on the first target and on both."""
    async with world(dialect=dialect, dead="a") as w:
        w.ups["b"].default = w.wire.answer(stream)
        assert (await w.ask(stream)).status == 200
    async with world(dialect=dialect, dead="ab") as w:
        seen = await w.ask(stream)
        assert seen.status == 502 and b"data:" not in seen.body and json.loads(seen.body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", WIRES)
async def test_all_fail_before_content(dialect, stream):
    """An HTTP error with the last status, and no byte of an event stream (D4, F9)."""
    async with world(dialect=dialect, fallback="{retry: {per_target: 0}}") as w:
        w.ups["a"].default = Answer(body=sse(*w.wire.opening, w.wire.failure)) if stream else Answer(500)
        w.ups["b"].default = Answer(529, [("retry-after", "3")], b'{"error": {"message": "busy"}}')
        seen = await w.ask(stream)
        assert (seen.status, seen.headers["retry-after"]) == (529, "3")
        assert seen.body == b'{"error": {"message": "busy"}}' and w.calls == {"a": 1, "b": 1}


def test_the_page_says_what_the_tests_check():
    """Of the table in the documentation, every cell is a case above or of ``test_translated``."""
    written = Path(__file__).parents[3] / "docs/reference/faults.md"
    assert written.read_text(encoding="utf-8") == page(), "run make docs"


# ── negative controls: each mutant must make the table fail ──────────────────────────────────────────────────────────


async def test_control_a_fallback_after_the_commit_is_seen(monkeypatch):
    monkeypatch.setattr("gwcore.reply.Reply.committed", False)
    assert await table("openai.chat", True, {"cut after content"})


async def test_control_a_retry_of_every_refusal_is_seen(monkeypatch):
    monkeypatch.setitem(outcomes.TABLE, "request", outcomes.TABLE["unavailable"])
    assert set(await table("openai.chat", False, {"status 400", "status 422"})) == {"status 400", "status 422"}


async def test_control_no_fallback_is_seen(monkeypatch):
    monkeypatch.setitem(outcomes.TABLE, "unavailable", outcomes.TABLE["request"])
    wanted = {"status 503", "error frame before content"}
    assert set(await table("openai.chat", True, wanted)) == wanted

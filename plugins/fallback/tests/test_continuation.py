"""A stream that broke after its first words (acceptance F10): with the option, another target goes on; else it ends."""

import json

import pytest
from fallback_world import WIRES, chunk, documents, event, said, world

from gwcore.testing.upstream import Answer, sse
from gwcore_fallback.continuation import GRAMMARS, REQUEST

ON = "{continuation: true}"


def frames(wire, *texts, finish=True):
    return wire.frames(*texts) if finish else sse(*wire.opening, *map(wire.content, texts))


def cut(wire, *texts):
    """A stream that ends in the middle of a frame."""
    pieces = frames(wire, *texts, "lost", finish=False)
    return Answer(body=pieces, cut_after=sum(map(len, pieces)) - 7)


@pytest.mark.parametrize("dialect", GRAMMARS)
async def test_another_target_goes_on(dialect):
    wire = WIRES[dialect]
    async with world("ab", dialect=dialect, fallback=ON) as w:
        w.ups["a"].default = cut(wire, "one ", "two ")
        w.ups["b"].default = Answer(body=frames(wire, "three ", "four"))
        seen = await w.ask(True)
        tail = "!" if wire.provider == "gemini" else ""
        assert seen.whole and said(wire, True, seen.body) == "one two three four" + tail
        assert seen.headers["x-gwcore-continuation"] == "possible"
        assert seen.body.count(b": gwcore-continued by b/m\n\n") == 1 and b"error" not in seen.body
        assert seen.body.endswith(b"".join(sse(wire.finish[-1])))
        asked = w.ups["b"].requests[0].document
        turns = asked.get("messages") or asked["contents"]
        assert "one two " in json.dumps(turns[-2]) and REQUEST in json.dumps(turns[-1])
        assert len(turns) == 3 and w.calls == {"a": 1, "b": 1} and w.breaker("a/m").fails == 1


@pytest.mark.parametrize("dialect", GRAMMARS)
async def test_the_grammar_of_the_stream_is_kept(dialect):
    """One opening, one identity, blocks that match: the frames a client would see from one upstream."""
    wire = WIRES[dialect]
    async with world("ab", dialect=dialect, fallback=ON) as w:
        w.ups["a"].default = cut(wire, "one ")
        other = b"".join(frames(wire, "two")).replace(b'"c1"', b'"c2"')
        w.ups["b"].default = Answer(body=[other], headers=[("content-type", "text/event-stream")])
        shown = documents((await w.ask(True)).body)
        if wire.provider == "openai-compatible":
            assert {d["id"] for d in shown} == {"c1"} and sum("role" in d["choices"][0]["delta"] for d in shown) == 1
        elif wire.provider == "anthropic":
            kinds = [d["type"] for d in shown]
            assert kinds == ["message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta",
                             "content_block_stop", "message_delta", "message_stop"]  # fmt: skip


def signed(dialect):
    """Thoughts, signed, before the first words."""
    if dialect == "anthropic.messages":
        started, *_ = WIRES[dialect].opening
        return [
            started,
            event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
            event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
            event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2ln"}),
            event("content_block_stop", index=0),
            event("content_block_start", index=1, content_block={"type": "text", "text": ""}),
        ]
    if dialect == "gemini.generate":
        part = {"text": "hm", "thought": True, "thoughtSignature": "c2ln"}
        return [{"candidates": [{"content": {"role": "model", "parts": [part]}}]}]
    details = [
        {"type": "reasoning.text", "text": "hm", "signature": "c2ln", "format": "anthropic-claude-v1", "index": 0}
    ]
    deltas = {"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"reasoning_details": details}
    return [chunk({**delta, "tool_calls": None}) for delta in deltas]


@pytest.mark.parametrize("dialect", GRAMMARS)
async def test_thoughts_stand_before_the_answer_and_not_in_it(dialect):
    """Each answer has its thoughts and their signature once: clients give them back with the next turn."""
    wire = WIRES[dialect]
    at = {"index": 1} if dialect == "anthropic.messages" else {}

    def moved(frame):
        return (frame[0], {**frame[1], **at}) if at and "index" in frame[1] else frame

    def thought(text):
        return [*signed(dialect), moved(wire.content(text))]

    async with world("ab", dialect=dialect, fallback="{continuation: true, first_token: 1s}") as w:
        pieces = sse(*thought("one "), moved(wire.content("lost")))
        w.ups["a"].default = Answer(body=pieces, cut_after=sum(map(len, pieces)) - 7)
        ends = sse(*map(moved, wire.finish))
        w.ups["b"].default = Answer(body=[b"".join(sse(*signed(dialect))), b"".join([*sse(*thought("two")[-1:]), *ends])], gap=1.5)  # fmt: skip
        seen = await w.ask(True)
        assert said(wire, True, seen.body).replace("hm", "").startswith("one two") and b'"error"' not in seen.body
        assert seen.body.count(b"c2ln") == 1 and b"gwcore-continued by b/m" in seen.body


async def test_it_may_break_again():
    wire = WIRES["openai.chat"]
    async with world("abc", fallback=ON) as w:
        w.ups["a"].default, w.ups["b"].default = cut(wire, "one "), cut(wire, "two ")
        w.ups["c"].default = Answer(body=frames(wire, "three"))
        seen = await w.ask(True)
        assert said(wire, True, seen.body) == "one two three" and seen.whole
        assert "one two " in json.dumps(w.ups["c"].requests[0].document["messages"][-2])
        assert len(w.ups["c"].requests[0].document["messages"]) == 3


async def test_a_continuation_that_fails_before_its_first_word_gives_way():
    wire = WIRES["openai.chat"]
    async with world("abc", fallback=ON) as w:
        w.ups["a"].default, w.ups["b"].default = cut(wire, "one "), Answer(503, body=b"{}")
        w.ups["c"].default = Answer(body=frames(wire, "two"))
        assert said(wire, True, (await w.ask(True)).body) == "one two"


@pytest.mark.parametrize("dialect", WIRES)
@pytest.mark.parametrize("fallback", ["{}", ON])
async def test_nobody_left_or_not_wanted_ends_with_an_error(dialect, fallback):
    wire = WIRES[dialect]
    async with world("ab" if fallback == "{}" else "a", dialect=dialect, fallback=fallback) as w:
        w.ups["a"].default = cut(wire, "one ")
        seen = await w.ask(True)
        # half a frame never stands before the error when frames are watched
        assert seen.whole and b"error" in seen.body and w.calls.get("b", 0) == 0
        assert ("x-gwcore-continuation" in seen.headers) is (fallback == ON and dialect in GRAMMARS)


CALL = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a'}}


@pytest.mark.parametrize(
    "frame",
    [
        chunk({"tool_calls": [CALL]}),
        {**chunk({"content": "x"}), "choices": [{"index": 1, "delta": {"content": "x"}}]},
        chunk({"refusal": "no"}),
        chunk({}, "stop"),
    ],
)
async def test_what_is_not_text_is_never_continued(frame):
    wire = WIRES["openai.chat"]
    async with world("ab", fallback=ON) as w:
        w.ups["a"].default = Answer(
            body=sse(*wire.opening, wire.content("one "), frame, chunk({}, None)), cut_after=None
        )
        pieces = sse(*wire.opening, wire.content("one "), frame, wire.content("lost"))
        w.ups["a"].default = Answer(body=pieces, cut_after=sum(map(len, pieces)) - 5)
        await w.ask(True)
        assert w.calls == {"a": 1, "b": 0}


SHAPED = [
    ("openai.chat", {"response_format": {"type": "json_object"}}),
    ("openai.chat", {"n": 2}),
    ("anthropic.messages", {"output_format": {"type": "json_schema", "schema": {}}}),
    ("anthropic.messages", {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
    ("gemini.generate", {"generationConfig": {"responseMimeType": "application/json"}}),
    ("gemini.generate", {"generation_config": {"response_json_schema": {"type": "object"}}}),
    ("gemini.generate", {"generationConfig": {"candidateCount": 2}}),
]


@pytest.mark.parametrize(("dialect", "more"), SHAPED)
async def test_json_that_the_request_asks_for_is_never_continued(dialect, more):
    """Who goes on would have to write a whole document, too: the client would read one and a half."""
    wire = WIRES[dialect]
    async with world("ab", dialect=dialect, fallback=ON) as w:
        w.ups["a"].default = cut(wire, '{"a": ')
        w.ups["b"].default = Answer(body=frames(wire, '{"a": 1}'))
        seen = await w.ask(True, **more)
        assert b"error" in seen.body and "x-gwcore-continuation" not in seen.headers and w.calls == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        ("openai.chat", {"response_format": {"type": "text"}, "n": None}),
        ("anthropic.messages", {"output_config": {"effort": "low"}}),
        ("gemini.generate", {"generationConfig": {"responseMimeType": "text/plain", "candidateCount": 1}}),
    ],
)
async def test_words_that_the_request_asks_for_are_continued(dialect, more):
    wire = WIRES[dialect]
    async with world("ab", dialect=dialect, fallback=ON) as w:
        w.ups["a"].default, w.ups["b"].default = cut(wire, "one "), Answer(body=frames(wire, "two"))
        assert said(wire, True, (await w.ask(True, **more)).body).startswith("one two")


async def test_a_whole_stream_passes_byte_for_byte():
    for dialect, wire in WIRES.items():
        async with world("a", dialect=dialect, fallback=ON) as w:
            whole = b"".join(frames(wire, "one ", "two ")) + b": comment\n\ndata: not json\n\n"
            whole = whole.replace(b"data: [DONE]\n\n", b"") + (b"data: [DONE]" if dialect == "openai.chat" else b"")
            w.ups["a"].default = Answer(body=[whole], split=(1, 7, 3))
            assert (await w.ask(True)).body == whole


@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic.messages"])
async def test_what_was_said_to_its_end_is_only_closed(dialect):
    """The reason why the answer ended has arrived, the mark behind it has not: nobody needs to go on."""
    wire = WIRES[dialect]
    pieces = frames(wire, "all of it")
    short = Answer(body=pieces, cut_after=sum(map(len, pieces[:-1])))
    async with world("ab", dialect=dialect, fallback=ON) as w:
        w.ups["a"].default = short
        seen = await w.ask(True)
        assert seen.whole and said(wire, True, seen.body) == "all of it" and b"error" not in seen.body
        assert seen.body.endswith(b"".join(sse(wire.finish[-1]))) and w.calls == {"a": 1, "b": 0}
        assert w.breaker("a/m").fails == 1
    async with world("ab", dialect=dialect) as w:  # without the option it is an error, as for any cut
        w.ups["a"].default = short
        assert b"error" in (await w.ask(True)).body

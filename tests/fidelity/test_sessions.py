"""Sessions that several vendors answer in turn, as a fallback makes them: what each left in the history disturbs no other."""

import base64
import json

import orjson
import pytest

from gwcore.chat import Reasoning
from gwcore.codec import Crossing
from gwcore.events import ToolCallStarted
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.translate import said
from gwcore.wire.sse import Frame, SseReader
from gwcore_providers import returned
from gwcore_providers.crossing import seal
from tests.fidelity.corpus import CODECS
from tests.fidelity.test_agents import frame
from tests.fidelity.test_attempts import UPSTREAMS
from tests.stacks.raw import exchange

SEALED = seal(Reasoning("I think.", "c2ln", dialect="some.other"))
GOOGLES = base64.b64encode(SEALED.encode()).decode()
THOUGHT_ID = "call_1__thought__YmdzaWc"

PATHS = {"openai.chat": "/v1/chat/completions", "openai.responses": "/v1/responses", "anthropic.messages": "/v1/messages",
         "gemini.generate": "/v1beta/models/up/m:generateContent"}  # fmt: skip
USE = {"type": "tool_use", "id": "call_1", "name": "f", "input": {}}
CALL = {"functionCall": {"name": "f", "args": {}}}
HISTORIES = {
    "openai.chat": (
        "messages",
        [
            {"role": "assistant", "tool_calls": [{"id": THOUGHT_ID, "type": "function", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": THOUGHT_ID, "content": "x"},
        ],
        [
            {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "x"},
        ],
    ),
    "openai.responses": (
        "input",
        [
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": SEALED},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAA"},
            {"type": "function_call", "call_id": THOUGHT_ID, "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": THOUGHT_ID, "output": "x"},
        ],
        [
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAA"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "x"},
        ],
    ),
    "anthropic.messages": (
        "messages",
        [
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "a", "signature": SEALED}, USE]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "b", "signature": ""}]},
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": SEALED}, USE]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "c", "signature": "own"}, USE]},
            {"role": "user", "content": "go on"},
        ],
        [
            {"role": "assistant", "content": [USE]},
            {"role": "assistant", "content": [USE]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "c", "signature": "own"}, USE]},
            {"role": "user", "content": "go on"},
        ],
    ),
    "gemini.generate": (
        "contents",
        [
            {"role": "model", "parts": [{"text": "a", "thought": True, "thoughtSignature": GOOGLES}, CALL]},
            {"role": "model", "parts": [{"text": "", "thoughtSignature": GOOGLES}]},
            {"role": "model", "parts": [{"text": "b", "thoughtSignature": GOOGLES}]},
            {"role": "model", "parts": [{"text": "c", "thoughtSignature": "b3du"}]},
        ],
        [
            {"role": "model", "parts": [CALL]},
            {"role": "model", "parts": [{"text": "b"}]},
            {"role": "model", "parts": [{"text": "c", "thoughtSignature": "b3du"}]},
        ],
    ),
}


async def _asked(dialect, body, path="", answer=b'{"id": "x"}'):
    provider, base, _ = UPSTREAMS[dialect]
    async with FakeUpstream(Answer(body=answer)) as upstream:
        stack = (
            f'gwcore: 1\nupstreams:\n  up: {{provider: {provider}, base_url: "{upstream.url}{base}", api_key: "sk-vendor-key"}}\n'
            'models: {"*": pass}\nstack: []\n'
        )
        async with running(Gateway(stack)) as url:
            got = await exchange(url, "POST", path or PATHS[dialect], body)
    return got, upstream.requests[-1].body


async def _heard(dialect, body, path=""):
    return (await _asked(dialect, body, path))[1]


@pytest.mark.parametrize("dialect", HISTORIES)
async def test_no_vendor_hears_what_another_one_signed_in_its_own_dialect(dialect):
    key, history, wanted = HISTORIES[dialect]
    body = {"model": "up/m", "max_tokens": 9, key: history, "other": [1, {"a": None}]}
    assert json.loads(await _heard(dialect, json.dumps(body).encode())) == {**body, "model": "m", key: wanted}


@pytest.mark.parametrize("dialect", HISTORIES)
async def test_a_history_of_one_vendor_is_sent_as_it_came(dialect):
    key, _, wanted = HISTORIES[dialect]
    body = b'{"model" :"up/m", "%s":%s}' % (key.encode(), json.dumps(wanted).encode())
    model = b'"up/m"' if dialect == "gemini.generate" else b'"m"'
    assert await _heard(dialect, body) == body.replace(b'"up/m"', model)


OWN = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
SIGNED = {"type": "thinking", "thinking": "t", "signature": "own"}
FOREIGN = {"type": "thinking", "thinking": "t", "signature": SEALED}
ENABLED = {"type": "enabled", "budget_tokens": 1024}
CLEAR = {"type": "clear_thinking_20251015", "keep": "all"}


def _loop(*answers, after=()):
    """A turn of calls that is not over, after one that is."""
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [USE, {"type": "text", "text": "Done."}]},
    ]
    turns.append({"role": "user", "content": [{"type": "text", "text": "more"}]})
    for blocks in answers:
        results = [{"type": "tool_result", "tool_use_id": b["id"]} for b in blocks if b["type"] == "tool_use"]
        turns += [{"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
    return [*turns, *after]


@pytest.mark.parametrize(
    ("turns", "kind", "thinks"),
    [
        (_loop([USE]), "enabled", False),
        (_loop([FOREIGN, OWN]), "enabled", False),
        (_loop([USE], [SIGNED, OWN]), "enabled", False),
        (_loop([USE]), "adaptive", True),
        (_loop([SIGNED, OWN], [USE]), "enabled", True),  # as its own later calls are, without interleaved thinking
        (_loop([OWN]), "enabled", True),  # the client's own doing, which the API answers
        (
            _loop([USE], after=[{"role": "assistant", "content": "Done."}, {"role": "user", "content": "ok"}]),
            "enabled",
            True,
        ),
    ],
)
async def test_anthropic_is_not_told_to_think_in_a_turn_that_another_vendor_began_without(turns, kind, thinks):
    """With a budget, "Expected `thinking` or `redacted_thinking`, but found `tool_use`"; clearing thoughts wants thinking."""
    thinking = ENABLED if kind == "enabled" else {"type": kind}
    body = {"model": "up/m", "max_tokens": 4096, "messages": turns, "thinking": thinking,
            "context_management": {"edits": [CLEAR]}}  # fmt: skip
    got, heard = await _asked("anthropic.messages", json.dumps(body).encode())
    assert ("thinking" in json.loads(heard), "context_management" in json.loads(heard)) == (thinks, thinks)
    assert ("reasoning" in (got.headers.get("x-gwcore-dropped") or "").split(", ")) is not thinks


async def test_other_edits_of_the_context_stay():
    body = {"model": "up/m", "max_tokens": 4096, "messages": _loop([USE]), "thinking": ENABLED,
            "context_management": {"edits": [CLEAR, {"type": "clear_tool_uses_20250919"}]}}  # fmt: skip
    heard = json.loads(await _heard("anthropic.messages", json.dumps(body).encode()))
    assert heard["context_management"] == {"edits": [{"type": "clear_tool_uses_20250919"}]}


@pytest.mark.parametrize("dialect", HISTORIES)
async def test_what_is_left_out_of_a_history_is_named(dialect):
    key, history, wanted = HISTORIES[dialect]
    for turns, named in ((history, "reasoning of another vendor"), (wanted, None)):
        got, _ = await _asked(dialect, json.dumps({"model": "up/m", "max_tokens": 9, key: turns}).encode())
        assert got.headers.get("x-gwcore-dropped") == named


WORD = "skip_thought_signature_validator"
RESULT = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}
ASK = {"role": "user", "parts": [{"text": "hi"}]}


def _calls(*signatures, key="thoughtSignature"):
    return {"role": "model", "parts": [{**CALL, key: one} if one else CALL for one in signatures]}


@pytest.mark.parametrize(
    ("contents", "wanted"),
    [
        ([ASK, _calls(None, None), RESULT], [ASK, _calls(WORD, None), RESULT]),
        ([ASK, _calls("b3du"), RESULT, _calls(None), RESULT], [ASK, _calls("b3du"), RESULT, _calls(WORD), RESULT]),
        ([ASK, _calls(GOOGLES), RESULT], [ASK, _calls(WORD), RESULT]),
        ([ASK, _calls("b3du"), _calls(None), RESULT], None),  # one step, as Google's SDKs keep a stream
        ([ASK, _calls("b3du", key="thought_signature"), RESULT], None),
        (
            [ASK, _calls(None), RESULT, {"role": "model", "parts": [{"text": "Done."}]}, ASK],
            None,
        ),  # a turn that is over
    ],
)
async def test_calls_of_other_vendors_carry_googles_word_at_gemini_3(contents, wanted):
    """Else a 400: "Function call is missing a thought_signature in functionCall parts"."""
    body = b'{"contents" :%s}' % json.dumps(contents).encode()
    path = "/v1beta/models/up/%s:generateContent"
    heard = await _heard("gemini.generate", body, path % "gemini-3-pro-preview")
    assert json.loads(heard)["contents"] == wanted if wanted else heard == body
    if contents[1] != _calls(GOOGLES):
        assert await _heard("gemini.generate", body, path % "gemini-2.5-pro") == body


def _crossed(source, target, document, model="m"):
    crossing = Crossing(model, "asked", request=document)
    return json.loads(said(CODECS[source], CODECS[target], crossing)[0])


@pytest.mark.parametrize(("model", "signs"), [("gemini-3-pro-preview", True), ("gemini-2.5-flash", False)])
def test_calls_of_other_models_pass_the_validator_of_signatures(model, signs):
    """Unsigned, the first call of a step in the turn being answered is a 400 of Gemini 3's models."""
    calls = [{"id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for at in (1, 2)]
    results = [{"role": "tool", "tool_call_id": one["id"], "content": "x"} for one in calls]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": calls}, *results]
    parts = _crossed("openai.chat", "gemini.generate", {"messages": turns}, model)["contents"][1]["parts"]
    signatures = [part.get("thoughtSignature") for part in parts]
    assert signatures == (["skip_thought_signature_validator", None] if signs else [None, None])


CHUNKS = [
    {"role": "user", "parts": [{"text": "hi"}]},
    *({"role": "model", "parts": [{"text": text}]} for text in ("Let me", "\n\n", "see.")),
    *({"role": "model", "parts": [{"functionCall": {"id": one, "name": "f", "args": {}}}]} for one in "ab"),
    {"role": "user", "parts": [{"functionResponse": {"id": one, "name": "f", "response": {"result": "x"}}} for one in "ab"]},
]  # fmt: skip


def test_an_answer_kept_in_chunks_is_one_answer_elsewhere():
    """As Google's SDKs keep a streamed answer: OpenAI wants the results behind the message of their calls."""
    messages = _crossed("gemini.generate", "openai.chat", {"contents": CHUNKS})["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["content"] == "Let me\n\nsee."
    assert [one["id"] for one in messages[1]["tool_calls"]] == ["a", "b"]
    turns = _crossed("gemini.generate", "anthropic.messages", {"contents": CHUNKS})["messages"]
    assert [block["type"] for block in turns[1]["content"]] == ["text", "tool_use", "tool_use"]


def test_no_block_of_white_space_goes_to_anthropic():
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "\n", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    written = _crossed("openai.chat", "anthropic.messages", {"messages": turns})["messages"]
    assert [block["type"] for block in written[1]["content"]] == ["tool_use"]


def test_a_streamed_call_without_arguments_has_an_empty_object():
    """Anthropic streams none at all; whoever adds them up for OpenAI's SDK parses the empty string otherwise."""
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 1}}
    events = [{"type": "message_start", "message": start}]
    for at, given in enumerate(("", '{"a":1}')):
        events += [
            {"type": "content_block_start", "index": at, "content_block": {**USE, "id": f"toolu_{at}"}},
            {"type": "content_block_delta", "index": at, "delta": {"type": "input_json_delta", "partial_json": ""}},
            {"type": "content_block_delta", "index": at, "delta": {"type": "input_json_delta", "partial_json": given}},
            {"type": "content_block_stop", "index": at},
        ]
    events.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}})
    reader, writer = CODECS["anthropic.messages"].reader(), CODECS["openai.chat"].writer(Crossing("m", "asked"))
    frames = SseReader().feed(b"".join(frame(one, named=True) for one in events))
    out = b"".join(writer.write(reader.read(one)) for one in frames) + writer.write(reader.close()) + writer.close()
    arguments = ["", ""]
    for line in out.split(b"\n\n"):
        if line.startswith(b"data: {"):
            for call in orjson.loads(line[6:])["choices"][0]["delta"].get("tool_calls", ()):
                arguments[call["index"]] += call["function"]["arguments"]
    assert arguments == ["{}", '{"a":1}']


@pytest.mark.parametrize(
    "messages", [None, [], "x", [1], [{"role": "assistant"}], [{"role": "assistant", "content": [1, {}]}]]
)
def test_what_is_no_history_is_the_vendor_s_to_refuse(messages):
    document = {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        **({} if messages is None else {"messages": messages}),
    }
    assert returned.messages(document) is None
    for key, cut in (
        ("contents", lambda document: returned.generate(b'Z3cx "functionCall"', document, "gemini-3-pro")),
        ("input", lambda document: returned.responses(b"gw1.", document)),
        ("messages", lambda document: returned.chat(b"__thought__", document)),
    ):
        changed = cut({key: messages})
        assert changed is None or changed[0] == {key: messages}


def test_calls_of_two_answers_have_two_names():
    """Gemini names no calls. By their place alone, the first ones of two answers had one id: agents took the second as done."""
    codec, ids = CODECS["gemini.generate"], []
    for answer in ("r1", "r2", None, None):
        call = {"functionCall": {"name": "f", "args": {}}}
        document = {"responseId": answer, "candidates": [{"content": {"parts": [call, call]}, "finishReason": "STOP"}]}
        whole = [part.id for part in codec.read_reply(document).choices[0].parts]
        events = codec.reader().read(Frame("", orjson.dumps(document), b"", False))
        streamed = [event.call.id for event in events if isinstance(event, ToolCallStarted)]
        assert len({*whole, *streamed}) == (2 if answer else 4), "an answer with an id reads the same each time"
        ids += whole
    assert len(set(ids)) == 8 and max(map(len, ids)) <= 40


@pytest.mark.parametrize(
    ("model", "choice", "names"),
    [
        ("claude-sonnet-4-5", {"type": "none"}, ["answer"]),
        ("claude-3-5-haiku-20241022", {"type": "tool", "name": "answer_"}, ["answer", "answer_"]),
    ],
)
def test_a_conversation_that_used_tools_names_them_at_anthropic(model, choice, names):
    """It refuses calls and results without any tool, and a title, a summary or an agent that takes over brings none."""
    calls = [{"id": one, "type": "function", "function": {"name": "answer", "arguments": "{}"}} for one in "cd"]
    results = [{"role": "tool", "tool_call_id": one, "content": "x"} for one in "cd"]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": calls}, *results]
    written = _crossed("openai.chat", "anthropic.messages", {"messages": turns}, model)
    assert written["tools"] == [{"name": "answer", "input_schema": {"type": "object", "properties": {}}}]
    assert written["tool_choice"] == {"type": "none"}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {}}}}
    written = _crossed("openai.chat", "anthropic.messages", {"messages": turns, "response_format": form}, model)
    assert written["tool_choice"] == choice and [tool["name"] for tool in written["tools"]] == names
    assert "tools" not in _crossed("openai.chat", "anthropic.messages", {"messages": turns[:1]}, model)


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-2.0-flash-001", "gemini-3-pro-preview"])
def test_gemini_2_takes_tools_or_a_form_of_the_answer(model):
    """With both it answers 400, "Function calling with a response mime type: 'application/json' is unsupported"."""
    shape = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": shape}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    asked = {"messages": [{"role": "user", "content": "hi"}], "tools": tools, "response_format": form}

    def written(**more):
        crossing = Crossing(model, "asked", request={**asked, **more})
        return json.loads(said(CODECS["openai.chat"], CODECS["gemini.generate"], crossing)[0]), crossing

    body, crossing = written()
    declared = [one["name"] for one in body["tools"][0]["functionDeclarations"]]
    if model.startswith("gemini-3"):
        assert declared == ["f"] and body["generationConfig"]["responseJsonSchema"]["required"] == ["a"]
        assert crossing.answer is None
        return
    assert declared == ["f", "f_"] and body["toolConfig"]["functionCallingConfig"] == {"mode": "ANY"}
    assert "generationConfig" not in body and crossing.answer.name == "f_" and not crossing.dropped
    assert body["tools"][0]["functionDeclarations"][1]["parametersJsonSchema"]["required"] == ["a"]
    body, _ = written(tool_choice="none")
    assert "tools" not in body and body["generationConfig"]["responseMimeType"] == "application/json"
    body, crossing = written(tool_choice="required")
    assert "generationConfig" not in body and crossing.dropped == ["response_format"] and crossing.answer is None
    body, crossing = written(response_format={"type": "json_object"})
    assert "generationConfig" not in body and crossing.dropped == ["response_format"]
    assert "JSON" in body["systemInstruction"]["parts"][0]["text"]
    assert "tools" not in written(tools=[])[0]

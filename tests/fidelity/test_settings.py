"""Structured output, forced tools, several calls at once, stop sequences: what is asked for in one dialect and answered
in another."""

import json
import tracemalloc

import pytest

from gwcore.codec import Crossing
from gwcore.errors import Untranslatable
from gwcore.translate import Translation
from tests.fidelity.corpus import CODECS, DIALECTS, SPECS
from tests.fidelity.relayed import REQUESTS
from tests.fidelity.validators import STREAMS, WHOLES

OLD, NEW = "claude-3-5-haiku-latest", "claude-opus-4-6"
OBJECT = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LIST = {"type": "array", "items": {"type": "string"}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
CLIENTS = [dialect for dialect in SPECS if dialect != "anthropic.messages"]


def ask(client, schema, *, tools=False):
    """The same wish in each dialect."""
    flat = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}
    declared = [{"functionDeclarations": [{"name": "look_up", "parametersJsonSchema": {"type": "object"}}]}]
    if client == "openai.chat":
        form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
        return {**REQUESTS[client], "response_format": form, **({"tools": [TOOL]} if tools else {})}
    if client == "openai.responses":
        form = {"format": {"type": "json_schema", "name": "place", "schema": schema}}
        return {**REQUESTS[client], "text": form, **({"tools": [flat]} if tools else {})}
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    return {**REQUESTS[client], "generationConfig": config, **({"tools": declared} if tools else {})}


def way_to(client, document, model, *, stream, upstream="anthropic.messages"):
    request = CODECS[client].read_request(json.loads(json.dumps(document)), "asked", stream=stream)
    crossing = Crossing(model, "asked", frozenset(), stream, True, 7, document)
    body = CODECS[upstream].write_request(request, crossing)
    customs = frozenset(tool.name for tool in request.tools if tool.custom)
    return Translation(DIALECTS[client], DIALECTS[upstream], "/x", crossing, b"", customs), body


def message(*blocks, stop="tool_use"):
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": list(blocks),
            "stop_reason": stop, "usage": {"input_tokens": 3, "output_tokens": 4}}  # fmt: skip


def use(name, given):
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}


def events_of(whole):
    """The same answer as Anthropic streams it, arguments in pieces of three letters."""
    yield {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}
    for at, block in enumerate(whole["content"]):
        given = json.dumps(block["input"])
        yield {"type": "content_block_start", "index": at, "content_block": {**block, "input": {}}}
        for i in range(0, len(given), 3):
            delta = {"type": "input_json_delta", "partial_json": given[i : i + 3]}
            yield {"type": "content_block_delta", "index": at, "delta": delta}
        yield {"type": "content_block_stop", "index": at}
    yield {"type": "message_delta", "delta": {"stop_reason": whole["stop_reason"]}, "usage": whole["usage"]}
    yield {"type": "message_stop"}


def answered(client, way, whole, stream):
    if not stream:
        return WHOLES[client](json.loads(way.written(way.read(json.dumps(whole).encode())))).said
    pipe = way.stream()
    frames = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events_of(whole)]
    return STREAMS[client](b"".join(map(pipe.feed, frames)) + pipe.close()).said


ENDED = {"openai.chat": "stop", "openai.responses": "completed", "gemini.generate": "STOP"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_model_without_structured_output_answers_through_a_tool(client, stream):
    way, body = way_to(client, ask(client, OBJECT), OLD, stream=stream)
    (tool,) = body["tools"]
    assert tool["input_schema"] == OBJECT and body["tool_choice"] == {"type": "tool", "name": tool["name"]}
    said = answered(client, way, message(use(tool["name"], {"city": "Ålesund"})), stream)
    assert json.loads(said.text) == {"city": "Ålesund"} and said.calls == [] and said.finish == ENDED[client]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_that_is_no_object_is_wrapped_and_unwrapped(client, stream):
    way, body = way_to(client, ask(client, LIST), OLD, stream=stream)
    assert body["tools"][0]["input_schema"]["properties"] == {"value": LIST}
    said = answered(client, way, message(use(body["tools"][0]["name"], {"value": ["a", "b"]})), stream)
    assert json.loads(said.text) == ["a", "b"] and said.finish == ENDED[client]


def openai_answer(upstream, text, *, stream):
    """The bytes of OpenAI's answer with this text; a stream has it in pieces of three letters."""
    pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
    if upstream == "openai.chat":
        head = {"id": "chatcmpl-1", "created": 1, "model": "m"}
        if not stream:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return json.dumps({**head, "object": "chat.completion", "choices": [choice]}).encode()
        deltas = [
            ({"role": "assistant", "content": ""}, None),
            *(({"content": one}, None) for one in pieces),
            ({}, "stop"),
        ]
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas]
        frames = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        return "".join(f"data: {frame}\n\n" for frame in [*frames, "[DONE]"]).encode()
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    whole = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": [item],
    }
    if not stream:
        return json.dumps(whole).encode()
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": one} for one in pieces),
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events).encode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("upstream", ["openai.chat", "openai.responses"])
def test_openai_is_asked_for_an_object_and_the_client_gets_its_list(upstream, stream):
    """``response_schema=list[Recipe]`` in Google's SDK: OpenAI takes no schema but an object's."""
    schema = {"type": "array", "items": {"$ref": "#/$defs/City"}, "$defs": {"City": OBJECT}}
    way, body = way_to("gemini.generate", ask("gemini.generate", schema), "gpt-5.4", stream=stream, upstream=upstream)
    form = body["response_format"]["json_schema"] if upstream == "openai.chat" else body["text"]["format"]
    assert form["schema"]["type"] == "object" and form["schema"]["$defs"] == {"City": OBJECT}
    assert form["schema"]["properties"] == {"value": {"type": "array", "items": {"$ref": "#/$defs/City"}}}
    for text, told in (
        ('{"value":[{"city":"Ålesund"}]}', '[{"city":"Ålesund"}]'),
        ("I cannot tell.", "I cannot tell."),
        ('{"value":null}', "null"),
    ):
        given = openai_answer(upstream, text, stream=stream)
        if stream:
            pipe = way.stream()
            said = STREAMS["gemini.generate"](pipe.feed(given) + pipe.close()).said
        else:
            said = WHOLES["gemini.generate"](json.loads(way.written(way.read(given)))).said
        assert said.text == told and said.finish == "STOP"


@pytest.mark.parametrize("upstream", ["openai.chat", "openai.responses"])
def test_an_objects_schema_reaches_openai_as_it_is(upstream):
    way, body = way_to("gemini.generate", ask("gemini.generate", OBJECT), "gpt-5.4", stream=False, upstream=upstream)
    form = body["response_format"]["json_schema"] if upstream == "openai.chat" else body["text"]["format"]
    assert form["schema"] == OBJECT and way.crossing.answer is None
    way, body = way_to(upstream, ask(upstream, LIST), "gpt-5.4", stream=False, upstream=upstream)
    form = body["response_format"]["json_schema"] if upstream == "openai.chat" else body["text"]["format"]
    assert form["schema"] == LIST and way.crossing.answer is None  # of the client's own: the vendor has the say


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_call_of_the_clients_own_tool_is_never_the_answer(client, stream):
    way, body = way_to(client, ask(client, OBJECT, tools=True), OLD, stream=stream)
    assert next(tool["name"] for tool in body["tools"]) == "look_up" and len(body["tools"]) == 2
    assert body["tool_choice"] == {"type": "any"}
    said = answered(client, way, message(use("look_up", {"q": "x"})), stream)
    assert said.text == "" and said.calls == [("look_up", {"q": "x"})]
    assert said.finish == {"openai.chat": "tool_calls"}.get(client, ENDED[client])
    way, body = way_to(client, ask(client, OBJECT, tools=True), OLD, stream=stream)
    said = answered(client, way, message(use(body["tools"][1]["name"], {"city": "Rome"})), stream)
    assert json.loads(said.text) == {"city": "Rome"} and said.calls == []


@pytest.mark.parametrize("client", CLIENTS)
def test_a_model_that_has_structured_output_is_asked_for_it(client):
    way, body = way_to(client, ask(client, OBJECT), NEW, stream=False)
    assert "tools" not in body and body["output_config"]["format"]["schema"]["properties"] == OBJECT["properties"]
    assert way.crossing.answer is None


@pytest.mark.parametrize("upstream", [dialect for dialect in SPECS if dialect != "gemini.generate"])
def test_a_bare_word_of_a_list_is_asked_of_gemini_only(upstream):
    """Outlines asks for a Literal so: another API's answer is in quotes, and no member of the client's enumeration."""
    given = {"response_mime_type": "text/x.enum", "response_schema": {"type": "STRING", "enum": ["yes", "no"]}}
    document = {**REQUESTS["gemini.generate"], "generationConfig": given}
    with pytest.raises(Untranslatable, match=r"text/x\.enum .*application/json"):
        way_to("gemini.generate", document, NEW, stream=False, upstream=upstream)
    _, body = way_to("gemini.generate", document, "gemini-2.5-flash", stream=False, upstream="gemini.generate")
    assert body["generationConfig"]["responseMimeType"] == "text/x.enum"


def test_the_answers_tool_takes_no_name_that_is_taken():
    document = ask("openai.chat", OBJECT, tools=True)
    document["tools"] = [{"type": "function", "function": {"name": "place", "parameters": OBJECT}}]
    _, body = way_to("openai.chat", document, OLD, stream=False)
    names = [tool["name"] for tool in body["tools"]]
    assert names[0] == "place" and len(set(names)) == 2


def test_thinking_gives_way_to_a_forced_answer_by_name():
    document = {**ask("openai.chat", OBJECT), "reasoning_effort": "high"}
    way, body = way_to("openai.chat", document, "claude-sonnet-4-0", stream=False)
    assert "thinking" not in body and "reasoning" in way.crossing.dropped


TOLD = {
    "openai.responses": ("gpt-5.4-mini", {"effort": "low"}, {"effort": "none"}),
    "anthropic.messages": ("claude-sonnet-4-5", {"type": "enabled", "budget_tokens": 2048}, None),
    "gemini.generate": ("gemini-2.5-flash", {"thinkingBudget": 2048, "includeThoughts": True}, {"thinkingBudget": 0}),
}


@pytest.mark.parametrize("upstream", TOLD)
def test_a_chat_client_may_say_thinking_as_anthropic_does(upstream):
    """As Cline does at LiteLLM's proxy."""
    model, on, off = TOLD[upstream]
    for given, told in (({"type": "enabled", "budget_tokens": 2048}, on), ({"type": "disabled"}, off)):
        document = {**REQUESTS["openai.chat"], "thinking": given, "max_tokens": 9000}
        way, body = way_to("openai.chat", document, model, stream=False, upstream=upstream)
        settings = body.get("generationConfig", body)
        found = settings.get("thinking") or settings.get("reasoning") or settings.get("thinkingConfig")
        assert (found, way.crossing.dropped) == (told, [])


def test_thinking_in_a_shape_that_nobody_knows_is_named():
    for given in ({"type": "perhaps"}, {"type": "enabled", "budget_tokens": "2k"}, "yes", ["enabled"]):
        document = {**REQUESTS["openai.chat"], "thinking": given}
        way, body = way_to("openai.chat", document, OLD, stream=False)
        assert "thinking" not in body and "thinking" in way.crossing.dropped


def test_thinking_that_is_on_without_a_budget_is_thinking_all_the_same():
    document = {**REQUESTS["openai.chat"], "thinking": {"type": "enabled"}, "max_tokens": 90000}
    way, body = way_to("openai.chat", document, "claude-sonnet-4-5", stream=False)
    assert body["thinking"]["budget_tokens"] > 1024 and way.crossing.dropped == []


@pytest.mark.parametrize(
    "given",
    [{"type": "enabled", "budget_tokens": 2048}, {"type": "enabled"}, {"type": "disabled"}, {"type": "perhaps"}],
)
def test_thinking_between_chat_and_chat_stays_as_it_is(given):
    document = {**REQUESTS["openai.chat"], "thinking": given}
    _, body = way_to("openai.chat", document, "m", stream=False, upstream="openai.chat")
    assert body["thinking"] == given and "reasoning_effort" not in body


# ── tools: which may be called, how many at once ─────────────────────────────────────────────────────────────────────

CHOICES = {
    "auto": {"openai.responses": "auto", "anthropic.messages": {"type": "auto"}, "gemini.generate": {"mode": "AUTO"}},
    "none": {"openai.responses": "none", "anthropic.messages": {"type": "none"}, "gemini.generate": {"mode": "NONE"}},
    "required": {"openai.responses": "required", "anthropic.messages": {"type": "any"}, "gemini.generate": {"mode": "ANY"}},
    "look_up": {
        "openai.responses": {"type": "function", "name": "look_up"},
        "anthropic.messages": {"type": "tool", "name": "look_up"},
        "gemini.generate": {"mode": "ANY", "allowedFunctionNames": ["look_up"]},
    },
}  # fmt: skip


@pytest.mark.parametrize("upstream", [s for s in SPECS if s != "openai.chat"])
@pytest.mark.parametrize("wish", CHOICES)
def test_which_tools_may_be_called_is_said_in_every_dialect_and_back(wish, upstream):
    choice = {"type": "function", "function": {"name": wish}} if wish == "look_up" else wish
    document = {**REQUESTS["openai.chat"], "tools": [TOOL], "tool_choice": choice}
    _, body = way_to("openai.chat", document, NEW, stream=False, upstream=upstream)
    told = body["toolConfig"]["functionCallingConfig"] if "toolConfig" in body else body["tool_choice"]
    assert told == CHOICES[wish][upstream]
    back = CODECS[upstream].read_request(body, "m", stream=False)
    again = CODECS["openai.chat"].write_request(back, Crossing("m"))
    assert again["tool_choice"] == choice


@pytest.mark.parametrize("upstream", ["openai.responses", "anthropic.messages"])
def test_several_answers_are_refused_by_name_where_there_is_one(upstream):
    with pytest.raises(Untranslatable, match=r"^n cannot"):
        way_to("openai.chat", {**REQUESTS["openai.chat"], "n": 2}, NEW, stream=False, upstream=upstream)
    _, body = way_to("openai.chat", {**REQUESTS["openai.chat"], "n": 2}, NEW, stream=False, upstream="gemini.generate")
    assert body["generationConfig"]["candidateCount"] == 2


def test_stop_sequences_are_said_or_named():
    document = {**REQUESTS["openai.chat"], "stop": ["END", "\n\n"]}
    _, body = way_to("openai.chat", document, NEW, stream=False)
    assert body["stop_sequences"] == ["END", "\n\n"]
    _, body = way_to("openai.chat", document, NEW, stream=False, upstream="gemini.generate")
    assert body["generationConfig"]["stopSequences"] == ["END", "\n\n"]
    way, _ = way_to("openai.chat", document, NEW, stream=False, upstream="openai.responses")
    assert way.crossing.dropped == ["stop"]


# ── parallel calls, interleaved; a call of 5 MB ──────────────────────────────────────────────────────────────────────


def chat_chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'id': 'c1', 'object': 'chat.completion.chunk', 'created': 1, 'model': 'm', 'choices': [choice]})}\n\n".encode()


def interleaved(pieces):
    """Three calls of OpenAI's chat stream whose arguments come in turns."""
    yield chat_chunk({"role": "assistant", "content": ""})
    for at in range(3):
        head = {
            "index": at,
            "id": f"call_{at}",
            "type": "function",
            "function": {"name": f"tool_{at}", "arguments": ""},
        }
        yield chat_chunk({"tool_calls": [head]})
    for piece in range(pieces):
        for at in range(3):
            part = f'{{"at":{at},"text":"' if piece == 0 else f"{at}{piece}." if piece < pieces - 1 else '"}'
            yield chat_chunk({"tool_calls": [{"index": at, "function": {"arguments": part}}]})
    yield chat_chunk({}, "tool_calls")
    yield b"data: [DONE]\n\n"


@pytest.mark.parametrize("client", [s for s in SPECS if s != "openai.chat"])
def test_calls_that_interleave_reassemble_to_what_was_called(client):
    way, _ = way_to(client, REQUESTS[client], "m", stream=True, upstream="openai.chat")
    pipe = way.stream()
    body = b"".join(map(pipe.feed, interleaved(40))) + pipe.close()
    got = STREAMS[client](body)
    text = ["".join(f"{at}{piece}." for piece in range(1, 39)) for at in range(3)]
    assert got.said.calls == [(f"tool_{at}", {"at": at, "text": text[at]}) for at in range(3)]
    assert got.ids == ["call_0", "call_1", "call_2"]


def test_streams_at_once_share_nothing():
    """Frames of four streams in turns: each comes out as it does alone (E15)."""
    frames = list(interleaved(9))
    alone = {}
    for client in SPECS:
        pipe = way_to(client, REQUESTS[client], "m", stream=True, upstream="openai.chat")[0].stream()
        alone[client] = [pipe.feed(frame) for frame in frames] + [pipe.close()]
    pipes = {c: way_to(c, REQUESTS[c], "m", stream=True, upstream="openai.chat")[0].stream() for c in SPECS}
    together = {client: [] for client in SPECS}
    for frame in frames:
        for client, pipe in pipes.items():
            together[client].append(pipe.feed(frame))
    for client, pipe in pipes.items():
        together[client].append(pipe.close())
        strip = [b.replace(b'"created_at":', b"").split(b'"created_at"')[0] for b in together[client]]
        assert len(strip) == len(alone[client])
        if client in ("anthropic.messages", "gemini.generate", "openai.chat"):
            assert together[client] == alone[client]


@pytest.mark.timeout(40)  # what grows with the square of the length would take hours
@pytest.mark.parametrize("client", [s for s in SPECS if s != "openai.chat"])
def test_a_call_of_five_megabytes_in_bounded_memory(client):
    size, piece = 5 << 20, "x" * 128
    way, _ = way_to(client, REQUESTS[client], "m", stream=True, upstream="openai.chat")
    pipe = way.stream()
    head = {"index": 0, "id": "call_0", "type": "function", "function": {"name": "write", "arguments": '{"text":"'}}
    more = chat_chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    tracemalloc.start()
    sent = len(pipe.feed(chat_chunk({"tool_calls": [head]})))
    for _ in range(size // len(piece)):
        sent += len(pipe.feed(more))
    held, _ = tracemalloc.get_traced_memory()
    tail = {"tool_calls": [{"index": 0, "function": {"arguments": '"}'}}]}
    end = pipe.feed(chat_chunk(tail)) + pipe.feed(chat_chunk({}, "tool_calls")) + pipe.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent + len(end) > size
    # Anthropic's events need nothing of what has gone by; the others say it again, whole
    assert held < (1 << 20 if client == "anthropic.messages" else 3 * size)
    assert peak < (1 << 20 if client == "anthropic.messages" else 20 * size)


@pytest.mark.parametrize(
    ("user", "sent"), [("u-1", {"user_id": "u-1"}), ({"name": "Ann", "id": "u-1"}, None), (7, None), ([], None)]
)
def test_a_user_that_is_no_text_does_not_reach_anthropic(user, sent):
    """It answers 400 to one; Open WebUI can be told to send an object of the user's name and role."""
    way, body = way_to("openai.chat", {**REQUESTS["openai.chat"], "user": user}, NEW, stream=False)
    assert body.get("metadata") == sent
    assert ("user" in way.crossing.dropped) is (sent is None)

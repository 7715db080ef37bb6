"""One state machine per client dialect: is this stream one that its vendor could have sent, and what does it say?

Each takes the bytes of a stream, raises ``AssertionError`` for what no such vendor sends, and returns what a client
reads out of it. Sources: the vendors' streaming documentation and their SDKs' accumulators.
"""

import json
from dataclasses import dataclass, field

from gwcore.wire.sse import SseReader
from tests.fidelity.oracle import Said, arguments


def frames_of(body):
    reader = SseReader()
    return [f for f in [*reader.feed(body), *reader.close()] if not f.comment]


@dataclass
class Read:
    """What a client got: ``usage`` as the dialect spells it, ``ids`` of calls, ``turn`` as the client sends it back."""

    said: Said = field(default_factory=Said)
    usage: dict | None = None
    ids: list = field(default_factory=list)
    turn: object = None


# ── openai.chat ──────────────────────────────────────────────────────────────────────────────────────────────────────


def chat(body, *, usage=True):
    frames = frames_of(body)
    assert frames[-1].data == b"[DONE]", "the end mark is last"
    chunks = [json.loads(frame.data) for frame in frames[:-1]]
    assert chunks, "an empty stream"
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk" and isinstance(chunk["created"], int)
        assert (chunk["id"], chunk["model"], chunk["created"]) == tuple(
            chunks[0][k] for k in ("id", "model", "created")
        )
        assert "error" not in chunk
    metered = [at for at, chunk in enumerate(chunks) if chunk.get("usage")]
    assert metered == ([len(chunks) - 1] if usage else []), "usage once, right before the end mark"
    assert [at for at, chunk in enumerate(chunks) if not chunk["choices"]] == metered
    out, lanes = Read(usage=chunks[-1]["usage"] if usage else None), {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            _chat_choice(choice, lanes)
    assert lanes and all(lane["finish"] for lane in lanes.values()), "every choice says why it ended"
    first = lanes[min(lanes)]
    calls = [(call["name"], arguments(call["text"])) for call in first["calls"]]
    out.said = Said(first["text"], first["thought"], calls, first["refusal"], first["finish"])
    out.ids = [call["id"] for call in first["calls"]]
    out.turn = {"role": "assistant", "content": first["text"] or None}
    if first["thought"]:
        out.turn["reasoning_content"] = first["thought"]
    if first["details"]:
        out.turn["reasoning_details"] = first["details"]
    if first["calls"]:
        out.turn["tool_calls"] = [call["shown"] for call in first["calls"]]
    return out


def _chat_choice(choice, lanes):
    assert {"index", "delta", "finish_reason"} <= choice.keys()
    delta = choice["delta"]
    fresh = {"text": "", "thought": "", "refusal": "", "calls": [], "finish": None, "details": []}
    lane = lanes.get(choice["index"])
    if lane is None:
        assert delta.get("role") == "assistant", "the first chunk of a choice names its role"
        lane = lanes[choice["index"]] = fresh
    assert lane["finish"] is None, "nothing follows a finish_reason"
    lane["text"] += delta.get("content") or ""
    lane["thought"] += delta.get("reasoning_content") or ""
    lane["refusal"] += delta.get("refusal") or ""
    lane["details"] += delta.get("reasoning_details") or []
    for item in delta.get("tool_calls") or ():
        assert item["index"] <= len(lane["calls"]), "indices count up"
        kind = "custom" if "custom" in item else "function"
        key = "input" if kind == "custom" else "arguments"
        if item["index"] == len(lane["calls"]):
            assert item["id"] and item["type"] == kind and item[kind]["name"]
            shown = {k: v for k, v in item.items() if k != "index"}
            shown[kind] = {"name": item[kind]["name"], key: ""}
            lane["calls"].append({"id": item["id"], "name": item[kind]["name"], "text": "", "shown": shown})
        call = lane["calls"][item["index"]]
        call["text"] += item[kind].get(key) or ""
        call["shown"][kind][key] = call["text"]
    if choice["finish_reason"]:
        assert not delta
        lane["finish"] = choice["finish_reason"]


# ── openai.responses ─────────────────────────────────────────────────────────────────────────────────────────────────

ENDS = {"response.completed", "response.incomplete", "response.failed"}


def responses(body):
    events = []
    for frame in frames_of(body):
        document = json.loads(frame.data)
        assert frame.event == document["type"]
        events.append(document)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ENDS and sum(kind in ENDS for kind in kinds) == 1, "one terminal event, and it is last"
    machine = _Items()
    for event in events[2:-1]:
        machine.event(event)
    assert not machine.open, "every item is done"
    last = events[-1]["response"]
    assert last["status"] == kinds[-1].removeprefix("response.")
    assert last["id"] == events[0]["response"]["id"]
    assert last["output"] == machine.done, "the last event repeats the items"
    return responses_reply(last)


def responses_reply(last):
    said, out = Said(finish=last["status"]), Read(usage=last["usage"])
    if last["status"] == "incomplete":
        said.finish = f"incomplete:{(last['incomplete_details'] or {}).get('reason')}"
    for item in last["output"]:
        if item["type"] == "message":
            for piece in item["content"]:
                said.text += piece.get("text", "")
                said.refusal += piece.get("refusal", "")
        elif item["type"] == "reasoning":
            said.reasoning += "".join(p["text"] for p in [*item["summary"], *item.get("content", ())])
        elif item["type"] in ("function_call", "custom_tool_call"):
            said.calls.append((item["name"], arguments(item.get("arguments", item.get("input")))))
            out.ids.append(item["call_id"])
    out.said, out.turn = said, last["output"]
    return out


class _Items:
    def __init__(self):
        self.open, self.done, self.count, self.ids = {}, [], 0, set()
        self.by_index = {}

    def event(self, event):
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            item = event["item"]
            assert event["output_index"] == self.count and item["id"] not in self.ids
            self.count += 1
            self.ids.add(item["id"])
            self.open[item["id"]] = {"index": event["output_index"], "text": {}, "part": None, "said": set()}
        elif kind == "output_item.done":
            state = self.open.pop(event["item"]["id"])
            assert state["index"] == event["output_index"] and state["part"] is None
            self.by_index[event["output_index"]] = event["item"]
            self.done = [self.by_index[at] for at in sorted(self.by_index)]
        else:
            self.inside(kind, event)

    def inside(self, kind, event):
        state = self.open[event["item_id"]]
        assert state["index"] == event["output_index"]
        if kind.endswith("part.added"):
            assert state["part"] is None, "one part at a time"
            state["part"] = event.get("content_index", event.get("summary_index"))
            state["text"] = {}
        elif kind.endswith("part.done"):
            assert state["part"] == event.get("content_index", event.get("summary_index"))
            piece = event["part"]
            assert piece.get("text", piece.get("refusal")) == state["text"].get("all", "")
            state["part"] = None
        elif kind.endswith(".delta"):
            if not kind.startswith(("function_call", "custom_tool")):
                assert state["part"] is not None, "a delta stands in a part"
            state["text"]["all"] = state["text"].get("all", "") + event["delta"]
        elif kind.endswith(".done"):
            told = next(event[key] for key in ("text", "refusal", "arguments", "input") if key in event)
            assert told == state["text"].get("all", "")
        else:
            assert kind == "output_text.annotation.added", kind


# ── anthropic.messages ───────────────────────────────────────────────────────────────────────────────────────────────

_DELTAS = {"text": {"text_delta", "citations_delta"}, "thinking": {"thinking_delta", "signature_delta"},
           "tool_use": {"input_json_delta"}, "redacted_thinking": set()}  # fmt: skip


def messages(body):
    events = []
    for frame in frames_of(body):
        document = json.loads(frame.data)
        assert frame.event == document["type"]
        if document["type"] != "ping":
            events.append(document)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start" and kinds.count("message_start") == 1
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_delta") == kinds.count("message_stop") == 1
    start = events[0]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and start["role"] == "assistant"
    blocks, current = [], None
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert current is None and event["index"] == len(blocks), "one block at a time, counted up"
            current = {**event["content_block"], "_json": ""}
            blocks.append(current)
        elif event["type"] == "content_block_delta":
            assert current is not None and event["index"] == len(blocks) - 1
            _messages_delta(current, event["delta"])
        else:
            assert event["type"] == "content_block_stop" and event["index"] == len(blocks) - 1
            if current["_json"]:
                current["input"] = json.loads(current["_json"])
            current = None
    assert current is None
    whole = {"content": blocks, "stop_reason": events[-2]["delta"]["stop_reason"], "usage": events[-2]["usage"]}
    assert events[-2]["delta"]["stop_reason"]
    out = messages_reply(whole)
    assert start["usage"]["input_tokens"] + start["usage"]["cache_read_input_tokens"] >= 0
    out.start = start["usage"]
    return out


def _messages_delta(block, delta):
    allowed = _DELTAS.get(block["type"])
    assert allowed is None or delta["type"] in allowed, (block["type"], delta["type"])
    if delta["type"] == "text_delta":
        block["text"] += delta["text"]
    elif delta["type"] == "thinking_delta":
        block["thinking"] += delta["thinking"]
    elif delta["type"] == "signature_delta":
        assert block["signature"] == "", "a signature comes once"
        block["signature"] = delta["signature"]
    elif delta["type"] == "input_json_delta":
        block["_json"] += delta["partial_json"]


def messages_reply(whole):
    out, said = Read(usage=whole["usage"]), Said(finish=whole["stop_reason"])
    for block in whole["content"]:
        if block["type"] == "text":
            assert block["text"] or block.get("citations"), "no empty block of text"
            said.text += block["text"]
        elif block["type"] == "thinking":
            said.reasoning += block["thinking"]
        elif block["type"] == "tool_use":
            assert isinstance(block["input"], dict)
            said.calls.append((block["name"], block["input"]))
            out.ids.append(block["id"])
    content = [{k: v for k, v in block.items() if k != "_json"} for block in whole["content"]]
    out.said, out.turn = said, {"role": "assistant", "content": content}
    return out


# ── gemini.generate ──────────────────────────────────────────────────────────────────────────────────────────────────


def generate(body):
    chunks = [json.loads(frame.data) for frame in frames_of(body)]
    assert chunks
    for chunk in chunks:
        assert (chunk["responseId"], chunk["modelVersion"]) == (chunks[0]["responseId"], chunks[0]["modelVersion"])
        assert isinstance(chunk["candidates"], list)
    finished = [at for at, chunk in enumerate(chunks) if any("finishReason" in c for c in chunk["candidates"])]
    assert finished == [len(chunks) - 1], "why it ended stands in the last chunk"
    assert all("usageMetadata" not in chunk for chunk in chunks[:-1])
    parts = [p for chunk in chunks for c in chunk["candidates"] if c["index"] == 0 for p in c["content"]["parts"]]
    last = chunks[-1]
    one = next(c for c in last["candidates"] if c["index"] == 0)
    whole = {"candidates": [{**one, "content": {"parts": parts}}], "usageMetadata": last.get("usageMetadata")}
    return generate_reply(whole)


def generate_reply(whole):
    one = whole["candidates"][0]
    out, said = Read(usage=whole.get("usageMetadata")), Said(finish=one["finishReason"])
    for part in one["content"]["parts"]:
        if part.get("thought"):
            said.reasoning += part["text"]
        elif "text" in part:
            said.text += part["text"]
        elif "functionCall" in part:
            said.calls.append((part["functionCall"]["name"], part["functionCall"]["args"]))
            out.ids.append(part["functionCall"]["id"])
    out.said, out.turn = said, {"role": "model", "parts": one["content"]["parts"]}
    return out


def chat_reply(whole):
    choice = whole["choices"][0]
    message = choice["message"]
    calls = []
    for call in message.get("tool_calls") or ():
        body = call[call["type"]]
        calls.append((body["name"], arguments(body.get("arguments", body.get("input")))))
    said = Said(
        message["content"] or "", message.get("reasoning_content") or "", calls, message["refusal"] or "",
        choice["finish_reason"],
    )  # fmt: skip
    ids = [call["id"] for call in message.get("tool_calls") or ()]
    return Read(said, whole.get("usage"), ids, message)


STREAMS = {
    "openai.chat": chat,
    "openai.responses": responses,
    "anthropic.messages": messages,
    "gemini.generate": generate,
}
WHOLES = {"openai.chat": chat_reply, "openai.responses": responses_reply, "anthropic.messages": messages_reply,
          "gemini.generate": generate_reply}  # fmt: skip

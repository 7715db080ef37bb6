"""The canonical conversation → Cohere's ``/v2/chat``. Source: https://docs.cohere.com/reference/chat."""

from __future__ import annotations

from typing import Any

from gwcore.chat import ChatRequest, Format, Media, Part, Reasoning, Text, Thinking, ToolCall, ToolResult
from gwcore.codec import Crossing
from gwcore_providers import native
from gwcore_providers.crossing import data_url, foreign
from gwcore_providers.efforts import budget_of, effort_of

Document = dict[str, Any]
DIALECT = "cohere.chat"
_KNOBS = {
    "temperature": "temperature", "top_p": "p", "top_k": "k", "seed": "seed", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty", "logprobs": "logprobs",
}  # fmt: skip
_LIMITS = {
    "temperature": (0, 1),
    "p": (0.01, 0.99),
    "k": (0, 500),
    "presence_penalty": (0, 1),
    "frequency_penalty": (0, 1),
}
_MOST_STOPS = 5


def write_request(request: ChatRequest, crossing: Crossing) -> Document:
    """See :meth:`gwcore.codec.UpstreamCodec.write_request`."""
    foreign(request, DIALECT, crossing, _KNOBS)
    native.one_answer_in_words(request, crossing)
    out: Document = {"model": crossing.model, "messages": _messages(request, crossing), "stream": crossing.stream}
    _offer_tools(request, out, crossing)
    if request.max_tokens is not None:
        out["max_tokens"] = request.max_tokens
    if request.stop:
        out["stop_sequences"] = request.stop[:_MOST_STOPS]
        if len(request.stop) > _MOST_STOPS:
            crossing.drop("stop beyond the fifth")
    if request.format is not None and request.format.kind != "text":
        out["response_format"] = _format(request.format)
    if request.thinking is not None:
        _think(request.thinking, out, crossing)
    for knob, key in _KNOBS.items():
        if knob in request.knobs:
            _tune(knob, key, request.knobs[knob], out, crossing)
    return out


def _tune(knob: str, key: str, value: Any, out: Document, crossing: Crossing) -> None:
    least, most = _LIMITS.get(key, (None, None))
    if least is None or most is None or not isinstance(value, int | float):
        out[key] = value
        return
    out[key] = max(least, min(most, value))
    if out[key] != value and (key, value) != ("p", 1):
        crossing.drop(f"{knob} {value}")


def _format(form: Format) -> Document:
    return {"type": "json_object"} | ({"json_schema": form.schema} if form.kind == "schema" else {})


def _think(thinking: Thinking, out: Document, crossing: Crossing) -> None:
    effort = effort_of(thinking)
    if effort is None and thinking.mode is None:
        return
    if "reasoning" not in crossing.model:
        if effort != "none":
            crossing.drop("reasoning")
        return
    if effort == "none":
        out["thinking"] = {"type": "disabled"}
        return
    out["thinking"] = {"type": "enabled"}
    if budget := thinking.budget or (budget_of(effort) if effort else None):
        out["thinking"]["token_budget"] = budget


def _offer_tools(request: ChatRequest, out: Document, crossing: Crossing) -> None:
    tools = native.functions(request, crossing, strict=True)
    choice = request.tool_choice
    if choice is not None and choice.names:  # this API has no choice by name: offer only these
        tools = [tool for tool in tools if tool["name"] in choice.names]
    if not tools:
        return
    out["tools"] = [{"type": "function", "function": tool} for tool in tools]
    if all(tool.strict for tool in request.tools):
        out["strict_tools"] = True
    elif any(tool.strict for tool in request.tools):
        crossing.drop("tools.strict")
    if choice is not None and choice.mode != "auto":
        out["tool_choice"] = {"none": "NONE", "required": "REQUIRED"}[choice.mode]
    if request.parallel is False:
        crossing.drop("parallel_tool_calls")


def _messages(request: ChatRequest, crossing: Crossing) -> list[Document]:
    out: list[Document] = []
    for message in request.messages:
        carried: list[Part] = []
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        out += [_result(part, crossing, carried) for part in results]
        others: list[Part] = [part for part in message.parts if not isinstance(part, ToolResult)]
        if carried:
            others = [*carried, *others]
        if others and message.role == "assistant":
            out.append(_answered(others, crossing))
        elif others:
            role = "system" if message.role in {"system", "developer"} else "user"
            out.append({"role": role, "content": _content(others, crossing)})
    return out


def _content(parts: list[Part], crossing: Crossing) -> Any:
    """Returns a single text as a string, otherwise a list of blocks."""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return native.said(parts, crossing)
    return [
        _image(part, crossing) if _is_image(part) else {"type": "text", "text": native.said([part], crossing)}
        for part in parts
    ]


def _is_image(part: Part) -> bool:
    return isinstance(part, Media) and part.kind == "image"


def _image(part: Part, crossing: Crossing) -> Document:
    assert isinstance(part, Media)
    address = data_url(part) if part.data is not None else part.url
    if address is None:
        raise crossing.refuse("image by file id", "files live at one vendor")
    detail = {"detail": part.detail} if part.detail in {"low", "high", "auto"} else {}
    return {"type": "image_url", "image_url": {"url": address, **detail}}


def _answered(parts: list[Part], crossing: Crossing) -> Document:
    """Returns a turn of the model. With tool calls, its thoughts and text become the ``tool_plan``."""
    thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls = [part for part in parts if isinstance(part, ToolCall)]
    others: list[Part] = [part for part in parts if not isinstance(part, Reasoning | ToolCall)]
    words = native.said(others, crossing)
    out: Document = {"role": "assistant"}
    if calls:
        if plan := "\n".join(text for text in (thoughts, words) if text):
            out["tool_plan"] = plan
        out["tool_calls"] = [_call(call, crossing) for call in calls]
        return out
    thought = [{"type": "thinking", "thinking": thoughts}] if thoughts else []
    return {**out, "content": [*thought, {"type": "text", "text": words}] if thought else words}


def _call(call: ToolCall, crossing: Crossing) -> Document:
    body = {"name": call.name, "arguments": native.arguments_of(call, crossing)}
    return {"id": call.id, "type": "function", "function": body}


def _result(result: ToolResult, crossing: Crossing, carried: list[Part]) -> Document:
    images: list[Part] = [part for part in result.parts if _is_image(part)]
    carried += images
    text = native.said([part for part in result.parts if not _is_image(part)], crossing)
    if result.error:
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": result.id, "content": text or ("The result follows." if images else "")}

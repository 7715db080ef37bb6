"""The canonical conversation → Ollama's ``/api/chat``. Source: Ollama's OpenAPI document and its ``api/types.go``."""

from __future__ import annotations

import re
from typing import Any

from gwcore.chat import ChatRequest, Format, Media, Message, Part, Reasoning, Thinking, ToolCall, ToolResult
from gwcore.codec import Crossing
from gwcore_providers import native
from gwcore_providers.crossing import foreign, names_of_calls, parsed
from gwcore_providers.efforts import effort_of, nearest
from gwcore_providers.quirks import value

Document = dict[str, Any]
DIALECT = "ollama.chat"
# canonical knob → key in ``options``
_OPTIONS = {
    **{knob: knob for knob in ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty")},
    "repetition_penalty": "repeat_penalty",
}  # fmt: skip
_LOGPROBS = ("logprobs", "top_logprobs")
# keys of this API that OpenAI clients add to their requests
_OWN = ("options", "keep_alive", "num_ctx", "think")
# models that accept ``think: true``, by Ollama's list of thinking models; only gpt-oss accepts degrees
_THINKS = re.compile(
    r"gpt-oss|qwen-?3|qwq|deepseek-(?:r|v3\.|v[4-9])|magistral|gemma-?4|glm-|kimi|minimax|nemotron|cogito|exaone-deep|phi4.*reasoning|"
    r"smallthinker|gemini-3|thinking"
)
_DEGREES = ("low", "medium", "high")


def write_request(request: ChatRequest, crossing: Crossing) -> Document:
    """See :meth:`gwcore.codec.UpstreamCodec.write_request`."""
    own = {key: request.extra.pop(key) for key in _OWN if key in request.extra}
    foreign(request, DIALECT, crossing, [*_OPTIONS, *_LOGPROBS])
    native.one_answer_in_words(request, crossing)
    out: Document = {"model": crossing.model, "messages": _messages(request, crossing), "stream": crossing.stream}
    _offer_tools(request, out, crossing)
    if request.format is not None and request.format.kind != "text":
        out["format"] = _format(request.format)
    if "think" in own:
        out["think"] = own["think"]
    elif request.thinking is not None:
        _think(request.thinking, out, crossing)
    out.update((knob, request.knobs[knob]) for knob in _LOGPROBS if knob in request.knobs)
    if options := _options(request, crossing, own):
        out["options"] = options
    keep = own.get("keep_alive", value(crossing.quirks, "keep_alive:"))
    if isinstance(keep, str) and keep.lstrip("-").isdigit():
        keep = int(keep)  # Ollama requires a number if there is no unit
    return {**out, "keep_alive": keep} if keep is not None else out


def _options(request: ChatRequest, crossing: Crossing, own: Document) -> Document:
    window = value(crossing.quirks, "num_ctx:")
    out: Document = {"num_ctx": int(window)} if window is not None else {}
    out.update((key, request.knobs[knob]) for knob, key in _OPTIONS.items() if knob in request.knobs)
    if request.max_tokens is not None:
        out["num_predict"] = request.max_tokens
    if request.stop:
        out["stop"] = request.stop
    if isinstance(own.get("options"), dict):
        out |= own["options"]
    if "num_ctx" in own:
        out["num_ctx"] = own["num_ctx"]
    if isinstance(out.get("num_ctx"), int):
        crossing.window = out["num_ctx"]
    return out


def _format(form: Format) -> Any:
    return form.schema if form.kind == "schema" and isinstance(form.schema, dict) else "json"


def _think(thinking: Thinking, out: Document, crossing: Crossing) -> None:
    effort = effort_of(thinking)
    wanted = effort or ("medium" if thinking.mode in {"on", "auto"} else None)
    if wanted is None:
        return
    if "gpt-oss" in crossing.model:
        out["think"] = nearest(wanted, _DEGREES)
        if effort not in {None, out["think"]}:
            crossing.drop(f"reasoning_effort {effort}")
    elif wanted == "none":
        out["think"] = False
    elif _THINKS.search(crossing.model):
        out["think"] = True
    else:
        crossing.drop("reasoning")


def _offer_tools(request: ChatRequest, out: Document, crossing: Crossing) -> None:
    choice = request.tool_choice
    if choice is not None and choice.mode == "required":
        raise crossing.refuse("tool_choice", "this API cannot force a tool call")
    if request.parallel is False and request.tools:
        crossing.drop("parallel_tool_calls")
    tools = native.functions(request, crossing)
    if choice is not None and choice.names:
        tools = [tool for tool in tools if tool["name"] in choice.names]
    if tools and not (choice is not None and choice.mode == "none"):
        out["tools"] = [{"type": "function", "function": tool} for tool in tools]


def _messages(request: ChatRequest, crossing: Crossing) -> list[Document]:
    names = names_of_calls(request.messages)
    out: list[Document] = []
    carried: list[Media] = []
    for message in request.messages:
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        out += [_result(result, names, crossing, carried) for result in results]
        others: list[Part] = [part for part in message.parts if not isinstance(part, ToolResult)]
        if others or not results:
            if carried:
                out.append(_spoken(Message("user", [*carried]), crossing))
                carried = []
            out.append(_spoken(Message(message.role, others), crossing))
    if carried:
        out.append(_spoken(Message("user", [*carried]), crossing))
    return out


def _spoken(message: Message, crossing: Crossing) -> Document:
    role = "system" if message.role == "developer" else message.role
    images = [part for part in message.parts if isinstance(part, Media) and part.kind == "image"]
    thoughts = [part for part in message.parts if isinstance(part, Reasoning)]
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    rest = [part for part in message.parts if part not in images and part not in thoughts and part not in calls]
    out: Document = {"role": role, "content": native.said(rest, crossing)}
    if images:
        out["images"] = [_image(image, crossing) for image in images]
    if text := "".join(thought.text for thought in thoughts):
        out["thinking"] = text
    elif thoughts:
        crossing.drop("reasoning of another vendor")
    if calls:
        out["tool_calls"] = [_call(call, crossing) for call in calls]
    return out


def _image(image: Media, crossing: Crossing) -> str:
    if image.data is None:
        raise crossing.refuse("image by address" if image.url else "image by file id", "send its bytes")
    if image.detail not in {None, "auto"}:
        crossing.drop("detail")
    return image.data


def _call(call: ToolCall, crossing: Crossing) -> Document:
    given = parsed(native.arguments_of(call, crossing))
    return {"id": call.id, "function": {"name": call.name, "arguments": given}}


def _result(result: ToolResult, names: dict[str, str], crossing: Crossing, carried: list[Media]) -> Document:
    images = [part for part in result.parts if isinstance(part, Media) and part.kind == "image"]
    carried += images
    text = native.said([part for part in result.parts if part not in images], crossing)
    if result.error:
        text = f"Error: {text}"
    if images and not text:
        text = "The result follows in the next message."
    name = names.get(result.id) or result.name
    named = {"tool_name": name} if name else {}
    return {"role": "tool", "content": text, "tool_call_id": result.id, **named}

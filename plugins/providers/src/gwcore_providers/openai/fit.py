"""Fits a request of ``openai.chat`` to an OpenAI-compatible vendor, by the quirks of its row and by the model."""

from __future__ import annotations

from typing import Any

from gwcore.chat import Thinking
from gwcore.codec import Crossing
from gwcore_providers.efforts import SCALE, effort_of, nearest
from gwcore_providers.openai.models import accepted_efforts, reasons

Document = dict[str, Any]

# models that reason accept none of these ("Unsupported parameter" in OpenAI's reference)
_SAMPLING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "stop",
)
_PARTS = {"image_url": "no_image", "input_audio": "no_audio", "file": "no_file"}
_NAMES = {"image_url": "image", "input_audio": "audio", "file": "document"}


def fit(out: Document, crossing: Crossing) -> None:
    """Change a request in place. Raises ``Untranslatable`` for content and tools that the vendor does not accept."""
    quirks = crossing.quirks
    for key in _SAMPLING if reasons(crossing.model) else ():
        if out.pop(key, None) is not None:
            crossing.drop(key)
    if "random_seed" in quirks and "seed" in out:
        out["random_seed"] = out.pop("seed")
    _fit_answer(out, crossing)
    for message in out["messages"]:
        if isinstance(message.get("content"), list):
            message["content"] = [_part(part, crossing) for part in message["content"]]
        if "thoughts_required" in quirks and message.get("tool_calls"):
            message.setdefault("reasoning_content", "")


def _fit_answer(out: Document, crossing: Crossing) -> None:
    if "one_answer" in crossing.quirks and (out.pop("n", None) or 1) > 1:
        raise crossing.refuse("n", "one request has one answer")
    if "no_schema" in crossing.quirks and out.get("response_format", {}).get("type") == "json_schema":
        raise crossing.refuse("response_format", "this vendor has no structured output")
    choice = out.get("tool_choice")
    if "auto_tools" in crossing.quirks and choice is not None:
        if choice == "none":
            out.pop("tools", None)
        elif choice != "auto":
            raise crossing.refuse("tool_choice", "this vendor cannot be forced to call a tool")
        del out["tool_choice"]


def _part(part: Document, crossing: Crossing) -> Document:
    quirks, kind = crossing.quirks, part.get("type", "")
    if kind == "file" and "document_url" in quirks:
        file = part["file"]
        return {"type": "document_url", "document_url": file["file_data"], "document_name": file["filename"]}
    if _PARTS.get(kind) in quirks:
        raise crossing.refuse(_NAMES[kind], "this vendor does not take it")
    if kind == "image_url" and "no_urls" in quirks and not part["image_url"]["url"].startswith("data:"):
        raise crossing.refuse("image by address", "send its bytes")
    if kind == "input_audio" and "wav_mp3" in quirks and part["input_audio"]["format"] not in {"wav", "mp3"}:
        raise crossing.refuse(f"audio of {part['input_audio']['format']}", "wav and mp3 are supported")
    if kind == "input_audio" and "bare_audio" in quirks:
        return {**part, "input_audio": part["input_audio"]["data"]}
    return part


def think(thinking: Thinking, out: Document, crossing: Crossing) -> None:
    """Write the reasoning effort in the vendor's form; what cannot be expressed exactly is dropped by name."""
    quirks, effort = crossing.quirks, effort_of(thinking)
    if "reasoning_object" in quirks:
        _think_object(thinking, effort, out, crossing)
        return
    switched = _switch(thinking, effort, out, quirks)
    if effort is None or (switched and effort == "none"):
        return
    known = accepted_efforts(crossing.model)
    allowed = tuple(word for word in SCALE if f"effort:{word}" in quirks) if known is None else known
    spoken = allowed if effort == "none" else tuple(word for word in allowed if word != "none")
    taken = nearest(effort, spoken) if spoken else None
    if taken is not None:
        out["reasoning_effort"] = taken
    as_asked = known == () and effort == "none"  # a model that never thinks
    as_it_does = taken is None and bool(allowed)  # accepts only "none", and otherwise thinks by default
    if taken != effort and not (as_asked or as_it_does):
        crossing.drop(f"reasoning_effort {effort}")


def _switch(thinking: Thinking, effort: str | None, out: Document, quirks: frozenset[str]) -> bool:
    """Turn thinking on or off, if the vendor has a switch for it; returns whether it has one."""
    wanted = effort or ("medium" if thinking.mode in {"on", "auto"} else None)
    if wanted is None or not quirks & {"thinking_switch", "enable_thinking"}:
        return False
    if "thinking_switch" in quirks:
        out["thinking"] = {"type": "disabled" if wanted == "none" else "enabled"}
        return True
    out["enable_thinking"] = wanted != "none"
    if thinking.budget:
        out["thinking_budget"] = thinking.budget
    return True


def _think_object(thinking: Thinking, effort: str | None, out: Document, crossing: Crossing) -> None:
    asked: Document = {}
    if thinking.budget and thinking.effort is None:
        asked["max_tokens"] = thinking.budget
    elif effort is not None:
        asked["effort"] = nearest(effort, SCALE[:-1])
        if asked["effort"] != effort:
            crossing.drop(f"reasoning_effort {effort}")
    elif thinking.mode in {"on", "auto"}:
        asked["enabled"] = True
    if thinking.shown == "none":
        asked["exclude"] = True
    if asked:
        out["reasoning"] = asked

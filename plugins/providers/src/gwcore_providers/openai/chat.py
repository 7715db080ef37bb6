"""``openai.chat``: chat completions, and all other operations of OpenAI's API except the Responses API.

Source: OpenAI's API reference and OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from gwcore.dialect import Document, Meter, ModelInfo, Opening, Returned, Route
from gwcore.errors import GatewayError, LimitError, Refused, Unauthenticated
from gwcore.knobs import Knobs
from gwcore.usage import Usage
from gwcore.wire.splice import insert_top_level, replace_top_level
from gwcore_providers import returned
from gwcore_providers.base import BaseDialect
from gwcore_providers.crossing import OVERFLOW
from gwcore_providers.listing import described, model_groups, model_info
from gwcore_providers.meter import FINAL, Facts, FixedMeter, Gather, JsonMeter, StreamMeter, Total
from gwcore_providers.openai.chat_codec import ChatCodec
from gwcore_providers.openai.chat_read import is_flat
from gwcore_providers.openai.lists import LISTS
from gwcore_providers.openai.models import reasons, responses_knobs
from gwcore_providers.openai.responses_read import DIALECT as RESPONSES
from gwcore_providers.usage import cohere_usage, number, openai_usage

_TOO_LONG = "maximum context length"
# status of an upstream's error → type, if the error has no type of its own
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_AZURE = ("",)
# Azure's SDK puts routes without a deployment below /openai, its newer one puts all below /openai/v1
_PREFIXES = ("", "/v1", "/openai", "/openai/v1")


def everywhere(*routes: Route) -> tuple[Route, ...]:
    """The routes under OpenAI's and Azure's prefixes."""
    return tuple(replace(route, prefixes=_PREFIXES) for route in routes)


def error_type(error: GatewayError) -> str:
    """The error's ``type``, as users of OpenAI's SDKs expect it."""
    if isinstance(error, LimitError):
        return error.code
    if isinstance(error, Unauthenticated):
        return "authentication_error"
    if isinstance(error, Refused) and error.status in _TYPES:
        return _TYPES[error.status]
    # agents retry a broken stream on "server_error", OpenAI's own word
    return "invalid_request_error" if 400 <= error.status < 500 else "server_error"


def error_body(error: GatewayError, request_id: str) -> bytes:
    """The error object of OpenAI's API."""
    param = "model" if error.code == "model_not_found" else None
    shown = {"message": error.message, "type": error_type(error), "param": param, "code": error.code}
    if isinstance(error, Refused):
        shown |= error.said
        if shown["code"] == OVERFLOW and _TOO_LONG not in error.message.lower():
            # LangChain, LiteLLM and others recognise this text and shorten the conversation; few read the code
            shown["message"] = f"This model's {_TOO_LONG} is exceeded: {error.message}"
    return orjson.dumps({"error": shown, "request_id": request_id})


_TOLD = {"model_info": model_info, "model_group_info": model_groups}


def models_body(models: Sequence[ModelInfo], wanted: str | None, operation: str) -> bytes | None:
    """``GET /models``, ``GET /models/{id}``, and LiteLLM's ``GET /model/info`` and ``/model_group/info``."""
    if operation in _TOLD:
        return orjson.dumps({"data": _TOLD[operation](models)})
    shown = [
        {"id": m.id, "object": "model", "created": m.created, "owned_by": m.owner, **described(m.card)} for m in models
    ]
    if wanted is None:
        return orjson.dumps({"object": "list", "data": shown})
    return next((orjson.dumps(model) for model in shown if model["id"] == wanted), None)


def _gather(document: Mapping[str, Any], facts: Facts) -> None:
    usage = document.get("usage")
    if not isinstance(usage, dict) and isinstance(document.get("x_groq"), dict):
        usage = document["x_groq"].get("usage")
    if isinstance(usage, dict):
        facts["usage"] = usage
        facts["tier"] = document.get("service_tier") or usage.get("service_tier")
        # after the last content; some vendors report usage in each chunk, or before the first content
        if document.get("choices") == [] and usage.get("completion_tokens"):
            facts[FINAL] = True


def _total(facts: Facts) -> Usage | None:
    usage = facts.get("usage")
    return None if usage is None else openai_usage(usage, facts.get("tier"), facts.get("fees"))


def _gather_rerank(document: Mapping[str, Any], facts: Facts) -> None:
    _gather(document, facts)
    if "usage" not in facts and isinstance(document.get("meta"), dict):
        facts["cohere"] = document["meta"]


def _total_rerank(facts: Facts) -> Usage | None:
    return cohere_usage(facts["cohere"]) if "cohere" in facts else _total(facts)


def _gather_images(document: Mapping[str, Any], facts: Facts) -> None:
    _gather(document, facts)
    if isinstance(document.get("data"), list):
        facts["images"] = len(document["data"])


def _total_images(facts: Facts) -> Usage | None:
    """Tokens if the model reports them, else the number of images."""
    found = _total(facts)
    if found is None or not found.total:
        images = facts.get("images", 0)
        kind = "/".join(["image", *(facts[key] for key in ("quality", "size") if isinstance(facts.get(key), str))])
        return Usage(fees={kind: images}, reported=found.reported if found else None) if images else found
    if not (found.image_out or found.audio_out or found.reasoning):
        found.image_out, found.output = found.output, 0
    return found


def _total_moderation(facts: Facts) -> Usage:
    """Free at OpenAI, which reports no usage; billed by others, which report it."""
    return _total(facts) or Usage(fees={"moderation": 1})


def _gather_speech(document: Mapping[str, Any], facts: Facts) -> None:
    """A transcript is billed by tokens or by seconds; one without usage may state its duration."""
    _gather(document, facts)
    seconds = number(document, "duration")
    if "usage" not in facts and seconds:
        facts["usage"] = {"type": "duration", "seconds": seconds}


def _total_spoken(facts: Facts) -> Usage | None:
    """All output of a speech model is audio."""
    found = _total(facts)
    if found is not None:
        found.audio_out, found.output = found.output, 0
    return found


def _only_usage(document: dict[str, Any]) -> bool:
    return document.get("choices") == [] and isinstance(document.get("usage"), dict)


_MARKED = frozenset({"chat", "completions"})  # their streams mark completion
_WHOLE = (b"}", b"]")
_UNMETERED = frozenset({"files", "batches", "file_content", "batch_cancel"})
_READ: Mapping[str, tuple[Gather, Total]] = {
    "rerank": (_gather_rerank, _total_rerank),
    "moderations": (_gather, _total_moderation),
    "speech": (_gather, _total_spoken),
    **dict.fromkeys(("transcription", "translation"), (_gather_speech, _total)),
    **dict.fromkeys(("image_generation", "image_edit", "image_variation"), (_gather_images, _total_images)),
}


_SAMPLING = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "stop", "user", "service_tier")
_KNOBS: Knobs = {
    **{name: ((name,),) for name in _SAMPLING},
    "max_tokens": (("max_tokens",), ("max_completion_tokens",)),
    "n": (("n",),),
    "verbosity": (("verbosity",),),
}
# these models accept only one spelling of the limit, and no sampling parameters
_KNOBS_REASONING: Knobs = {
    "max_tokens": (("max_completion_tokens",), ("max_tokens",)),
    **{name: _KNOBS[name] for name in ("n", "seed", "user", "service_tier", "verbosity")},
}
_KNOBS_COMPLETIONS: Knobs = {
    **{name: ((name,),) for name in _SAMPLING},
    "max_tokens": (("max_tokens",),),
    "n": (("n",), ("best_of",)),
}


class OpenAIChat(BaseDialect):
    """The dialect that most vendors speak."""

    name = "openai.chat"
    chat = ChatCodec()
    lists = LISTS
    unique = frozenset(
        {"model", "stream", "max_tokens", "max_completion_tokens", "n", "tools", "stream_options", "service_tier"}
    )
    forward = ("openai-", "x-stainless-", "http-referer", "x-title")
    end_mark = re.compile(rb'\[DONE\]|"error"\s*:\s*\{|"finish_reason"\s*:\s*"')
    last_mark = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)

    routes = (
        *everywhere(
            Route("POST", "/chat/completions", "chat", stream="body"),
            Route("POST", "/completions", "completions", stream="body"),
            Route("POST", "/embeddings", "embeddings"),
            Route("POST", "/moderations", "moderations", model="optional"),
            Route("POST", "/images/generations", "image_generation", stream="body"),
            Route("POST", "/images/edits", "image_edit", body="form", stream="body"),
            Route("POST", "/images/variations", "image_variation", body="form", model="optional"),
            Route("POST", "/audio/speech", "speech"),
            Route("POST", "/audio/transcriptions", "transcription", body="form"),
            Route("POST", "/audio/translations", "translation", body="form"),
            Route("GET", "/files", "files", model="none", body="none"),
            Route("POST", "/files", "files", model="none", body="raw"),
            Route("GET", "/files/{id}", "files", model="none", body="none"),
            Route("DELETE", "/files/{id}", "files", model="none", body="none"),
            Route("GET", "/files/{id}/content", "file_content", model="none", body="none"),
            Route("GET", "/batches", "batches", model="none", body="none"),
            Route("POST", "/batches", "batches", model="none"),
            Route("GET", "/batches/{id}", "batches", model="none", body="none"),
            Route("POST", "/batches/{id}/cancel", "batch_cancel", model="none", body="none"),
            Route("GET", "/models", "models", local=True, model="none", body="none"),
            Route("GET", "/models/{model}", "models", local=True, model="none", body="none"),
            Route("GET", "/model/info", "model_info", local=True, model="none", body="none"),
            Route("GET", "/model_group/info", "model_group_info", local=True, model="none", body="none"),
        ),
        Route("POST", "/rerank", "rerank", ("", "/v1", "/v2")),
        # Azure's SDK: the deployment in the path is the model
        Route("POST", "/openai/deployments/{model}/chat/completions", "chat", _AZURE, "path", stream="body"),
        Route("POST", "/openai/deployments/{model}/completions", "completions", _AZURE, "path", stream="body"),
        Route("POST", "/openai/deployments/{model}/embeddings", "embeddings", _AZURE, "path"),
        Route("POST", "/openai/deployments/{model}/images/generations", "image_generation", _AZURE, "path"),
        Route("POST", "/openai/deployments/{model}/images/edits", "image_edit", _AZURE, "path", "form"),
        Route("POST", "/openai/deployments/{model}/audio/speech", "speech", _AZURE, "path"),
        Route("POST", "/openai/deployments/{model}/audio/transcriptions", "transcription", _AZURE, "path", "form"),
        Route("POST", "/openai/deployments/{model}/audio/translations", "translation", _AZURE, "path", "form"),
    )

    def returned(self, raw: bytes, document: Document, _model: str) -> Returned | None:
        """See :mod:`gwcore_providers.returned`."""
        return returned.chat(raw, document)

    def knobs(self, operation: str, document: Document, model: str) -> Knobs:
        """Top-level members; for a document in the shape of the Responses API, that dialect's knobs."""
        if operation == "chat":
            if self.shape(document) == RESPONSES:
                return responses_knobs(model)
            return _KNOBS_REASONING if reasons(model) else _KNOBS
        return _KNOBS_COMPLETIONS if operation == "completions" else {}

    def demand_usage(self, operation: str, raw: bytes, document: Document) -> bytes:
        """The request with ``stream_options.include_usage``, spliced in if missing."""
        if operation not in {"chat", "completions"}:
            return raw
        options = document.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            return raw
        wanted = orjson.dumps({**(options if isinstance(options, dict) else {}), "include_usage": True})
        if "stream_options" in document:
            return replace_top_level(raw, "stream_options", wanted)
        return insert_top_level(raw, "stream_options", wanted)

    def meter(self, operation: str, document: Document | None, *, stream: bool) -> Meter | None:
        """Usage is at the top level of the reply, and in the last chunk of a stream."""
        if operation in _UNMETERED:
            return None
        gather, total = _READ.get(operation, (_gather, _total))
        asked = document or {}
        if operation == "speech" and not stream:
            text = asked.get("input")
            return FixedMeter(Usage(fees={"characters": len(text)})) if isinstance(text, str) else None
        # a web search shows only in the request
        facts: Facts = {"fees": {"web_search": 1}} if asked.get("web_search_options") is not None else {}
        if operation.startswith("image"):
            facts |= {"quality": asked.get("quality"), "size": asked.get("size")}
        if not stream:
            # the numbers of 100 texts are 3 MB, which took 14 ms to parse
            judge, tail = self.void if operation == "chat" else None, operation == "embeddings"
            return JsonMeter(gather, total, facts, judge, tail=tail)
        options = asked.get("stream_options")
        wanted = isinstance(options, dict) and bool(options.get("include_usage"))
        hide = None if wanted or operation not in {"chat", "completions"} else _only_usage
        return StreamMeter(gather, total, "usage", hide, facts)

    def shape(self, document: Document) -> str | None:
        """Cursor sends the Responses API's ``input`` and flat tools to this address."""
        if "messages" not in document and "input" in document:
            return RESPONSES
        tools = document.get("tools")
        if isinstance(tools, list) and any(map(is_flat, tools)):
            return self.name
        return None

    def judge(self, document: dict[str, Any]) -> Opening:
        """``wait`` for a role with empty content, early usage, and an end without content."""
        verdict = super().judge(document)
        if verdict != "go":
            return verdict
        choices = document.get("choices")
        if not isinstance(choices, list):
            return "go"
        for choice in choices:
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict) or choice.get("finish_reason") not in {None, "", "stop"}:
                return "go"
            if any(value for key, value in delta.items() if key != "role"):
                return "go"
        return "wait"

    def ended(self, operation: str, tail: bytes) -> bool:
        """Speech, transcripts and images end with an event of a special type, named perhaps megabytes before its end.

        Whether ``[DONE]`` follows depends on the vendor, so such a stream counts as complete if its last line is.
        """
        if operation in _MARKED:
            return super().ended(operation, tail)
        lines = tail.splitlines()
        # comments may follow, such as another gateway's cost
        return next((line for line in reversed(lines) if line and line[:1] != b":"), b"").rstrip().endswith(_WHOLE)

    def bare(self, document: dict[str, Any]) -> bool:
        """Whether no message has anything but its role."""
        for choice in document["choices"]:
            for key, value in (choice.get("message") or {}).items():
                if value and key != "role":
                    return False
        return True

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return error_body(error, request_id)

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None, operation: str = "models") -> bytes | None:
        """OpenAI's list."""
        return models_body(models, wanted, operation)

"""``openai.chat``: chat completions, and every operation of that API which is not the Responses API.

Source: OpenAI's API reference and OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from gwcore.dialect import Document, Meter, ModelInfo, Opening, Route
from gwcore.errors import GatewayError, LimitError, Unauthenticated
from gwcore.usage import Usage
from gwcore.wire.splice import insert_top_level, replace_top_level
from gwcore_providers.base import BaseDialect
from gwcore_providers.meter import JsonMeter, StreamMeter
from gwcore_providers.usage import openai_usage

_AZURE = ("",)


def error_type(error: GatewayError) -> str:
    """The ``type`` an official SDK's user would look for."""
    if isinstance(error, LimitError):
        return error.code
    if isinstance(error, Unauthenticated):
        return "authentication_error"
    return "invalid_request_error" if 400 <= error.status < 500 else "api_error"


def error_body(error: GatewayError, request_id: str) -> bytes:
    """The error object of OpenAI's API."""
    param = "model" if error.code == "model_not_found" else None
    shown = {"message": error.message, "type": error_type(error), "param": param, "code": error.code}
    return orjson.dumps({"error": shown, "request_id": request_id})


def models_body(models: Sequence[ModelInfo], wanted: str | None) -> bytes | None:
    """``GET /models`` and ``GET /models/{id}``."""
    shown = [{"id": m.id, "object": "model", "created": m.created, "owned_by": m.owner} for m in models]
    if wanted is None:
        return orjson.dumps({"object": "list", "data": shown})
    return next((orjson.dumps(model) for model in shown if model["id"] == wanted), None)


def _usage(document: dict[str, Any], before: Usage | None) -> Usage | None:
    usage = document.get("usage")
    if not isinstance(usage, dict) and isinstance(document.get("x_groq"), dict):
        usage = document["x_groq"].get("usage")
    return openai_usage(usage) if isinstance(usage, dict) else before


def _only_usage(document: dict[str, Any]) -> bool:
    return document.get("choices") == [] and isinstance(document.get("usage"), dict)


class OpenAIChat(BaseDialect):
    """The dialect most of the field speaks."""

    name = "openai.chat"
    unique = frozenset({"model", "stream", "max_tokens", "max_completion_tokens", "n", "stream_options"})
    forward = ("openai-", "x-stainless-", "http-referer", "x-title")
    end_mark = re.compile(rb'\[DONE\]|"error"\s*:\s*\{|"finish_reason"\s*:\s*"')

    routes = (
        Route("POST", "/chat/completions", "chat", stream="body"),
        Route("POST", "/completions", "completions", stream="body"),
        Route("POST", "/embeddings", "embeddings"),
        Route("POST", "/moderations", "moderations", model="none"),
        Route("POST", "/rerank", "rerank"),
        Route("POST", "/images/generations", "image_generation", stream="body"),
        Route("POST", "/images/edits", "image_edit", body="form"),
        Route("POST", "/images/variations", "image_variation", body="form", model="none"),
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
        # as Azure's SDK addresses it: the deployment in the path is the model
        Route("POST", "/openai/deployments/{model}/chat/completions", "chat", _AZURE, "path", stream="body"),
        Route("POST", "/openai/deployments/{model}/completions", "completions", _AZURE, "path", stream="body"),
        Route("POST", "/openai/deployments/{model}/embeddings", "embeddings", _AZURE, "path"),
        Route("POST", "/openai/deployments/{model}/images/generations", "image_generation", _AZURE, "path"),
        Route("POST", "/openai/deployments/{model}/audio/speech", "speech", _AZURE, "path"),
        Route("POST", "/openai/deployments/{model}/audio/transcriptions", "transcription", _AZURE, "path", "form"),
        Route("POST", "/openai/deployments/{model}/audio/translations", "translation", _AZURE, "path", "form"),
    )

    def demand_usage(self, operation: str, raw: bytes, document: Document) -> bytes:
        """``stream_options.include_usage``, spliced in where it is missing."""
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
        """Usage stands at top level of the reply, and in the last chunk of a stream."""
        if operation in {"files", "batches", "file_content", "batch_cancel", "speech"}:
            return None
        if not stream:
            return JsonMeter(_usage)
        options = (document or {}).get("stream_options")
        asked = isinstance(options, dict) and bool(options.get("include_usage"))
        return StreamMeter(_usage, b'"usage"', None if asked else _only_usage)

    def judge(self, document: dict[str, Any]) -> Opening:
        """A role with empty content, and usage ahead of time, wait."""
        verdict = super().judge(document)
        if verdict != "go":
            return verdict
        choices = document.get("choices")
        if not isinstance(choices, list):
            return "go"
        for choice in choices:
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict) or choice.get("finish_reason"):
                return "go"
            if any(value for key, value in delta.items() if key != "role"):
                return "go"
        return "wait"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return error_body(error, request_id)

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None) -> bytes | None:
        """OpenAI's list."""
        return models_body(models, wanted)

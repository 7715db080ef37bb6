"""``gemini.generate``. Source: Google's Generative Language API reference and discovery document."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gwcore.dialect import Document, InBandError, Meter, ModelInfo, Opening, Returned, Route
from gwcore.errors import BudgetExceeded, GatewayError, Refused
from gwcore.knobs import Knobs
from gwcore.usage import Usage
from gwcore_providers import returned
from gwcore_providers.base import BaseDialect, status_of
from gwcore_providers.gemini.codec import GeminiCodec
from gwcore_providers.gemini.lists import LISTS
from gwcore_providers.listing import limits
from gwcore_providers.meter import Facts, JsonMeter, StreamMeter
from gwcore_providers.usage import gemini_usage

_V = ("/v1beta", "/v1")
_VERBS = (*_V, "")  # LiteLLM's clients send no version between the base URL and the model
_KEY = "x-goog-api-key"
# grounding is billed per prompt for these generations, per query for later ones
_PER_PROMPT = ("gemini-1", "gemini-2")
_NEVER = 86_400.0
"""Seconds after which to ask again for a budget that no date renews. Gemini CLI takes a 429 that names no time for one of
this minute, and asks ten times in five minutes."""
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}


def _gather(document: Mapping[str, Any], facts: Facts) -> None:
    usage = document.get("usageMetadata")
    if isinstance(usage, dict):
        facts["usage"] = usage
    facts["model"] = document.get("modelVersion") or facts.get("model")
    candidates = document.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        grounding = candidate.get("groundingMetadata") if isinstance(candidate, dict) else None
        if isinstance(grounding, dict) and isinstance(queries := grounding.get("webSearchQueries"), list):
            facts.setdefault("queries", set()).update(q for q in queries if isinstance(q, str) and q)


def _total(facts: Facts) -> Usage | None:
    usage = facts.get("usage")
    if usage is None:
        return None
    searches = len(facts.get("queries", ()))
    if str(facts.get("model")).startswith(_PER_PROMPT):
        searches = min(searches, 1)
    return gemini_usage(usage, searches)


# the fields of GenerationConfig, in camelCase and in snake_case: the API accepts either at each level
_KNOBS: Knobs = {
    knob: tuple(
        dict.fromkeys(
            (
                ("generationConfig", name),
                ("generation_config", snake),
                ("generationConfig", snake),
                ("generation_config", name),
            )
        )
    )
    for knob, name, snake in (
        ("max_tokens", "maxOutputTokens", "max_output_tokens"),
        ("n", "candidateCount", "candidate_count"),
        ("temperature", "temperature", "temperature"),
        ("top_p", "topP", "top_p"),
        ("top_k", "topK", "top_k"),
        ("seed", "seed", "seed"),
        ("stop", "stopSequences", "stop_sequences"),
        ("presence_penalty", "presencePenalty", "presence_penalty"),
        ("frequency_penalty", "frequencyPenalty", "frequency_penalty"),
    )
}


class GeminiGenerate(BaseDialect):
    """The model is in the path; a stream is SSE with ``alt=sse``, otherwise a JSON array."""

    name = "gemini.generate"
    chat = GeminiCodec()
    lists = LISTS
    unique = frozenset({"model", "contents", "tools", "generationConfig", "generation_config", "serviceTier"})
    forward = ("x-goog-api-client", "x-goog-user-project", "x-goog-request-params", "x-server-timeout")
    # Google's SDK for Python reads a comment as data, but skips empty lines
    keepalive = b"\r\n\r\n"
    comments = False
    end_mark = last_mark = re.compile(rb'"(?:finishReason|blockReason)"\s*:')
    routes = (
        Route("POST", "/models/{model}:generateContent", "chat", _VERBS, "path"),
        Route("POST", "/models/{model}:streamGenerateContent", "chat", _VERBS, "path", stream="always"),
        Route("POST", "/models/{model}:countTokens", "count_tokens", _VERBS, "path"),
        Route("POST", "/models/{model}:embedContent", "embeddings", _VERBS, "path"),
        Route("POST", "/models/{model}:batchEmbedContents", "batch_embeddings", _VERBS, "path"),
        Route("POST", "/models/{model}:predict", "predict", _VERBS, "path"),
        Route("GET", "/models", "models", ("/v1beta",), "none", "none", local=True),
        Route("GET", "/models/{model}", "models", ("/v1beta",), "none", "none", local=True),
        # Google's SDKs use /v1 here, the same address as OpenAI's and Anthropic's clients
        Route("GET", "/models", "models", ("/v1",), "none", "none", local=True, header=_KEY),
        Route("GET", "/models/{model}", "models", ("/v1",), "none", "none", local=True, header=_KEY),
        Route("POST", "/cachedContents", "cached_contents", _V, "none"),
        Route("GET", "/cachedContents", "cached_contents", _V, "none", "none"),
        Route("GET", "/cachedContents/{id}", "cached_contents", _V, "none", "none"),
        Route("PATCH", "/cachedContents/{id}", "cached_contents", _V, "none"),
        Route("DELETE", "/cachedContents/{id}", "cached_contents", _V, "none", "none"),
    )

    def returned(self, raw: bytes, document: Document, model: str) -> Returned | None:
        """See :mod:`gwcore_providers.returned`."""
        return returned.generate(raw, document, model)

    def knobs(self, operation: str, _document: Document, _model: str) -> Knobs:
        """Members of ``generationConfig``."""
        return _KNOBS if operation == "chat" else {}

    def meter(self, operation: str, _document: Document | None, *, stream: bool) -> Meter | None:
        """Every chunk has a ``usageMetadata``; the last one counts."""
        if operation not in {"chat", "embeddings", "batch_embeddings"}:
            return None
        return (
            StreamMeter(_gather, _total, "usageMetadata")
            if stream
            else JsonMeter(_gather, _total, judge=self.void if operation == "chat" else None)
        )

    def judge(self, document: dict[str, Any]) -> Opening:
        """An error keeps Google's envelope."""
        error = document.get("error")
        if isinstance(error, dict):
            return InBandError(status_of(error), orjson.dumps(document))
        return "wait" if self.bare(document) else "go"

    def bare(self, document: dict[str, Any]) -> bool:
        """Whether there is no prompt feedback, non-empty part or finish reason other than ``STOP``."""
        if "promptFeedback" in document:
            return False
        return all(
            candidate.get("finishReason") in {None, "STOP"}
            and not any(part != {"text": ""} for part in (candidate.get("content") or {}).get("parts") or ())
            for candidate in document.get("candidates") or ()
        )

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """Google's error object."""
        said = error.said if isinstance(error, Refused) else {}
        reason = said.get("code") or said.get("type") or error.code
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason.upper(),
            "domain": "gwcore",
            "metadata": {"request_id": request_id},
        }
        details: list[dict[str, Any]] = [info]
        after = _NEVER if isinstance(error, BudgetExceeded) and error.retry_after is None else error.retry_after
        if after is not None:  # Gemini CLI reads this, not the header
            delay = f"{max(1, math.ceil(after))}s"
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
        status = _STATUS.get(error.status, "INVALID_ARGUMENT" if error.status < 500 else "INTERNAL")
        shown = {"code": error.status, "message": error.message, "status": status, "details": details}
        return orjson.dumps({"error": shown})

    def models_body(self, models: Sequence[ModelInfo], wanted: str | None, _operation: str = "models") -> bytes | None:
        """``GET /v1beta/models``."""
        methods = ["generateContent", "streamGenerateContent", "countTokens"]
        shown = [
            {
                "name": f"models/{m.id}",
                "displayName": m.id,
                "supportedGenerationMethods": methods,
                **limits(m.card, "inputTokenLimit", "outputTokenLimit"),
            }
            for m in models
        ]
        if wanted is None:
            return orjson.dumps({"models": shown})
        return next((orjson.dumps(model) for model in shown if model["displayName"] == wanted), None)

"""Vendors with an API of their own, and Azure: one class each. OpenAI-compatible ones are rows in ``compatible.py``."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gwcore.provider import Upstream, options_of
from gwcore.wire.transport import Headers, Request, Transport
from gwcore_providers.quirks import OPENAI_CHAT, OPENAI_MODELS, found, words

Address = tuple[str, bool] | None


def segment(text: str) -> str:
    """The text quoted as one path segment: no slash, no dot segment."""
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if set(text) <= {"."} else quoted


def model_path(text: str) -> str:
    """A model's name quoted for a path; slashes are kept, dot segments are escaped."""
    return "/".join(segment(part) for part in text.split("/"))


class Vendor:
    """Defaults of all vendors."""

    name = ""
    base_url: str | None = None
    env_key: str | None = None
    Options: type[BaseModel] | None = None

    def quirks(self, _upstream: Upstream, _model: str) -> frozenset[str]:
        """No quirks."""
        return frozenset()

    def credential(self, api_key: str | None, _options: BaseModel | None) -> Headers:
        """A bearer token, as most vendors expect."""
        return [(b"authorization", b"Bearer " + api_key.encode())] if api_key else []

    def transport(self, gateway: Transport, _api_key: str | None, _options: BaseModel | None) -> Transport:
        """The gateway's own transport."""
        return gateway


def _with_id(path: str, params: Mapping[str, str]) -> str:
    return f"{path}/{segment(params['id'])}" if "id" in params else path


_MESSAGES = {
    "chat": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "batches": "/v1/messages/batches",
    "completions": "/v1/complete",
    "files": "/v1/files",
}
_BELOW = {
    "batch_cancel": "/v1/messages/batches/{}/cancel",
    "batch_results": "/v1/messages/batches/{}/results",
    "file_content": "/v1/files/{}/content",
}


class Anthropic(Vendor):
    """Anthropic's API; also any server that speaks it."""

    name = "anthropic"
    base_url = "https://api.anthropic.com"
    env_key = "ANTHROPIC_API_KEY"

    def address(
        self,
        upstream: Upstream,
        dialect: str,
        operation: str,
        _model: str,
        params: Mapping[str, str],
        *,
        stream: bool,  # noqa: ARG002
    ) -> Address:
        """Messages, token counts, batches, files."""
        if dialect != "anthropic.messages":
            return None
        if operation in _BELOW:
            return upstream.base_path + _BELOW[operation].format(segment(params["id"])), False
        path = _MESSAGES.get(operation)
        return None if path is None else (upstream.base_path + _with_id(path, params), operation not in _STATELESS)

    def credential(self, api_key: str | None, _options: BaseModel | None) -> Headers:
        """``x-api-key``."""
        return [(b"x-api-key", api_key.encode())] if api_key else []


_GOOGLE_VERBS = {
    "count_tokens": "countTokens",
    "embeddings": "embedContent",
    "batch_embeddings": "batchEmbedContents",
    "predict": "predict",
}


def google_verb(operation: str, params: Mapping[str, str], *, stream: bool) -> str | None:
    """Google's custom method: the client's, if given, else the operation's; chats stream as server-sent events."""
    if operation == "chat" and "verb" not in params:
        return "streamGenerateContent?alt=sse" if stream else "generateContent"
    return params.get("verb") or _GOOGLE_VERBS.get(operation)


_GEMINI = words("batch:100")
_NAMED_INSIDE = frozenset({"embeddings", "batch_embeddings", "count_tokens"})


def _renamed(body: bytes, model: str) -> bytes:
    """Google's request with ``model`` in every part that names one, as in its path; unchanged if it matches already.

    Source: https://ai.google.dev/api/embeddings, https://ai.google.dev/api/tokens.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:  # e.g. a number that only other parsers accept: leave it to Google to reject
        return body
    several = document.get("requests")
    parts = [document, document.get("generateContentRequest"), *(several if isinstance(several, list) else ())]
    other = [p for p in parts if isinstance(p, dict) and p.get("model") not in (None, model, f"models/{model}")]
    for one in other:
        one["model"] = f"models/{model}"
    return orjson.dumps(document) if other else body


class GeminiOptions(BaseModel):
    """Further keys of a ``gemini`` upstream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_version: str = Field(
        default="v1beta", pattern="^v[0-9a-z]+$", description="API version in the path: `v1beta`, `v1` …"
    )


class Gemini(Vendor):
    """Google's Generative Language API."""

    name = "gemini"
    base_url = "https://generativelanguage.googleapis.com"
    env_key = "GEMINI_API_KEY"
    Options = GeminiOptions

    def address(
        self,
        upstream: Upstream,
        dialect: str,
        operation: str,
        model: str,
        params: Mapping[str, str],
        *,
        stream: bool,
    ) -> Address:
        """The path; the method follows the model's name."""
        if dialect != "gemini.generate":
            return None
        root = f"{upstream.base_path}/{options_of(upstream, GeminiOptions).api_version}"
        if operation == "cached_contents":
            return root + _with_id("/cachedContents", params), False
        verb = google_verb(operation, params, stream=stream)
        return None if verb is None else (f"{root}/models/{model_path(model)}:{verb}", False)

    def quirks(self, _upstream: Upstream, _model: str) -> frozenset[str]:
        """Embeddings: at most 100 texts per request."""
        return _GEMINI

    def prepare(self, upstream: Upstream, request: Request, _dialect: str, operation: str, *, stream: bool) -> None:  # noqa: ARG002
        """Embedding and count requests name the model in the body too, where Google requires the path's."""
        if operation in _NAMED_INSIDE and request.body:
            path = request.target.removeprefix(upstream.base_path).partition("?")[0].rpartition(":")[0]
            request.body = _renamed(request.body, unquote(path.partition("/models/")[2]))

    def credential(self, api_key: str | None, _options: BaseModel | None) -> Headers:
        """A header, never ``?key=``: URLs end up in logs."""
        return [(b"x-goog-api-key", api_key.encode())] if api_key else []


class AzureOptions(BaseModel):
    """Further keys of an ``azure`` upstream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_version: str | None = Field(
        default=None,
        pattern="^[0-9A-Za-z.-]+$",
        description="Value of `api-version`; requests then go to the deployment routes. Without it, to `/openai/v1`.",
    )


# operation → path below the root of any OpenAI-compatible API
OPENAI_PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "moderations": "/moderations",
    "rerank": "/rerank",
    "image_generation": "/images/generations",
    "image_edit": "/images/edits",
    "image_variation": "/images/variations",
    "speech": "/audio/speech",
    "transcription": "/audio/transcriptions",
    "translation": "/audio/translations",
    "files": "/files",
    "batches": "/batches",
}
_STATELESS = frozenset({"files", "batches", "file_content", "batch_cancel"})


def openai_path(dialect: str, operation: str, params: Mapping[str, str]) -> Address:
    """The path of an operation below an OpenAI root; ``None`` for another dialect."""
    if dialect == "openai.responses":
        return _responses_path(operation, params)
    if dialect != "openai.chat":
        return None
    if operation == "file_content":
        return f"/files/{segment(params['id'])}/content", False
    if operation == "batch_cancel":
        return f"/batches/{segment(params['id'])}/cancel", False
    path = OPENAI_PATHS.get(operation)
    return None if path is None else (_with_id(path, params), operation not in _STATELESS)


def _responses_path(operation: str, params: Mapping[str, str]) -> Address:
    plain = {"chat": "/responses", "compact": "/responses/compact", "count_tokens": "/responses/input_tokens"}
    if operation in plain:
        return plain[operation], True
    tails = {"responses": "", "response_cancel": "/cancel", "response_items": "/input_items"}
    return f"/responses/{segment(params['id'])}{tails[operation]}", False


class Azure(Vendor):
    """Azure OpenAI; ``base_url`` is the resource, e.g. ``https://NAME.openai.azure.com``."""

    name = "azure"
    env_key = "AZURE_OPENAI_API_KEY"
    Options = AzureOptions

    def address(
        self,
        upstream: Upstream,
        dialect: str,
        operation: str,
        model: str,
        params: Mapping[str, str],
        *,
        stream: bool,  # noqa: ARG002
    ) -> Address:
        """With ``api_version``, a route per deployment; else the v1 routes."""
        found = openai_path(dialect, operation, params)
        if found is None:
            return None
        path, names_model = found
        version = options_of(upstream, AzureOptions).api_version
        if version is None:
            return f"{upstream.base_path}/openai/v1{path}", names_model
        deployed = names_model and dialect == "openai.chat"
        root = f"/openai/deployments/{segment(model)}" if deployed else "/openai"
        return f"{upstream.base_path}{root}{path}?api-version={version}", names_model

    def quirks(self, _upstream: Upstream, model: str) -> frozenset[str]:
        """OpenAI's own; the model is known only by the deployment's name."""
        return OPENAI_CHAT | found(OPENAI_MODELS, model)

    def credential(self, api_key: str | None, _options: BaseModel | None) -> Headers:
        """``api-key``."""
        return [(b"api-key", api_key.encode())] if api_key else []

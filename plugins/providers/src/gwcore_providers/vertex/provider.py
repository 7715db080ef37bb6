"""``provider: vertex``: Gemini, Anthropic's models and the OpenAI-compatible endpoint of Vertex AI.

Source: Google's Vertex AI REST reference (``projects.locations.publishers.models``, ``endpoints.openapi``), and the
addressing of the google-genai and anthropic SDKs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module

import orjson
from pydantic import BaseModel, Field, SecretStr, field_validator

from gwcore.errors import BadConfig
from gwcore.provider import Upstream, options_of
from gwcore.units import fault
from gwcore.wire.transport import Headers, Request, Response, Transport
from gwcore_providers.anthropic.cloud import BetaOptions, betas_of, error_body, versioned
from gwcore_providers.clouds import CloudTransport, renamed
from gwcore_providers.expiring import Expiring
from gwcore_providers.quirks import OWN_SAMPLING, efforts, without, words
from gwcore_providers.vendors import Address, Vendor, google_verb, model_path, segment
from gwcore_providers.vertex.lists import DIALECT as PREDICT
from gwcore_providers.vertex.lists import by_content

_MODEL = frozenset({"model"})
_MULTI_REGIONS = ("us", "eu")
_CLAUDE = "claude"
_ANTHROPIC = words("no_urls", without("service_tier"))
_GEMINI = words("no_ids")
# "Text embeddings API" of the Vertex AI reference: limit of 250 texts and 20,000 tokens; Gemini's models take one text
_EMBEDDINGS = words("batch:250", "batch_tokens:18000")
_ONE_AT_A_TIME = words("batch:1")
# "OpenAI compatibility" of the Vertex AI guide
_OPENAI = words(
    "thought_signature", "no_file", "video", efforts("minimal", "low", "medium", "high"), without(*OWN_SAMPLING)
)


class VertexOptions(BetaOptions):
    """Additional options of a ``vertex`` upstream."""

    project: str | None = Field(
        default=None,
        pattern="^[a-z0-9:.-]+$",
        description="Id of the Google Cloud project. Not needed with an `api_key`, nor if `credentials` is a key file "
        "that names its project.",
    )
    location: str = Field(
        default="global",
        pattern="^[a-z0-9-]+$",
        description="Region such as `us-east5`, the multi-region `us` or `eu`, or `global`.",
    )
    credentials: SecretStr | None = Field(
        default=None,
        description="Text of a Google key file (service account, authorized user or workload identity); write it as "
        "`${file:path}`. Without it and without `api_key`, Application Default Credentials are used.",
    )
    api_version: str = Field(
        default="v1beta1", pattern="^v[0-9a-z]+$", description="Version in the path of Gemini's operations."
    )
    anthropic_version: str = Field(
        default="vertex-2023-10-16",
        pattern="^[a-z0-9-]+$",
        description="`anthropic_version` in the bodies sent to Anthropic's models.",
    )

    @field_validator("credentials")
    @classmethod
    def _is_a_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            try:
                named = "type" in orjson.loads(secret.get_secret_value())
            except (ValueError, TypeError):
                named = False
            if not named:
                raise fault(
                    "is not the text of a key file",
                    "write ${file:key.json}, or leave it out for Application Default Credentials",
                )
        return secret

    @property
    def host(self) -> str:
        """Host that serves the location."""
        if self.location == "global":
            return "aiplatform.googleapis.com"
        if self.location in _MULTI_REGIONS:
            return f"aiplatform.{self.location}.rep.googleapis.com"
        return f"{self.location}-aiplatform.googleapis.com"

    @property
    def parent(self) -> str:
        """``/projects/…/locations/…``; empty without a project, since an API key implies one (express mode)."""
        project = self.project
        if project is None and self.credentials is not None:
            project = orjson.loads(self.credentials.get_secret_value()).get("project_id")
        return f"/projects/{segment(project)}/locations/{self.location}" if project else ""


class Vertex(Vendor):
    """One upstream is one project in one location."""

    name = "vertex"
    base_url = "https://{.host}"
    Options = VertexOptions

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
        """Plain model names belong to a publisher's API; ``publisher/model`` to the OpenAI-compatible endpoint."""
        options = options_of(upstream, VertexOptions)
        if dialect == "gemini.generate":
            root = f"{upstream.base_path}/{options.api_version}{options.parent}"
            if operation == "cached_contents":
                return f"{root}/cachedContents" + (f"/{segment(params['id'])}" if "id" in params else ""), False
            verb = None if model.startswith(_CLAUDE) else google_verb(operation, params, stream=stream)
            return None if verb is None else (f"{root}/publishers/google/models/{_model(model)}:{verb}", False)
        root = f"{upstream.base_path}/v1{options.parent}"
        path = None
        if dialect == PREDICT and operation == "predict" and not model.startswith(_CLAUDE) and "/" not in model:
            verb = "embedContent" if by_content(model) else "predict"
            path = f"/publishers/google/models/{_model(model)}:{verb}", False
        elif dialect == "anthropic.messages" and model.startswith(_CLAUDE):
            if operation == "chat":
                verb = "streamRawPredict" if stream else "rawPredict"
                path = f"/publishers/anthropic/models/{_model(model)}:{verb}", False
            elif operation == "count_tokens":
                path = "/publishers/anthropic/models/count-tokens:rawPredict", True
        elif (dialect, operation) == ("openai.chat", "chat") and "/" in model:
            path = "/endpoints/openapi/chat/completions", True
        return path and (root + path[0], path[1])

    def quirks(self, _upstream: Upstream, model: str) -> frozenset[str]:
        """Depend on the publisher; ``publisher/model`` is served by the OpenAI-compatible endpoint."""
        if "/" in model:
            return _OPENAI
        if "embedding" in model:
            return _ONE_AT_A_TIME if model.startswith("gemini-") else _EMBEDDINGS
        return _ANTHROPIC if model.startswith(_CLAUDE) else _GEMINI

    def prepare(self, upstream: Upstream, request: Request, dialect: str, operation: str, *, stream: bool) -> None:  # noqa: ARG002
        """Anthropic's body contains the version, and the model only if tokens are counted."""
        if dialect == "anthropic.messages":
            options = options_of(upstream, VertexOptions)
            betas, knobs = betas_of(request.headers, options.betas)
            if options.betas is not None:
                request.headers = renamed(request.headers, anthropic_beta=",".join(betas).encode() or None)
            without = knobs | _MODEL if operation == "chat" else knobs
            request.body = versioned(request.body, options.anthropic_version, without)
            request.target = request.target.partition("?")[0]  # only Anthropic's own API knows ?beta=true

    def credential(self, api_key: str | None, _options: BaseModel | None) -> Headers:
        """An API key is sent as a header; :class:`VertexTransport` adds tokens."""
        return [(b"x-goog-api-key", api_key.encode())] if api_key else []

    def transport(self, gateway: Transport, api_key: str | None, options: BaseModel | None) -> Transport:
        """Tokens are fetched by google-auth, which ``gwcore-providers[vertex]`` installs."""
        assert isinstance(options, VertexOptions)
        if api_key is not None:
            return VertexTransport(gateway, None)
        if not options.parent:
            raise BadConfig("provider vertex: set project, or an api_key (express mode)")
        try:
            tokens = import_module("gwcore_providers.vertex.tokens")
        except ImportError:
            raise BadConfig("provider vertex needs google-auth: pip install 'gwcore-providers[vertex]'") from None
        document = options.credentials.get_secret_value() if options.credentials else None
        return VertexTransport(gateway, Expiring("Google credentials", tokens.Tokens(document), tokens.MARGIN))


def _model(name: str) -> str:
    """Returns a model's name for the path; the ``@`` before a version is not encoded."""
    return model_path(name).replace("%40", "@")


class VertexTransport(CloudTransport[Headers]):
    """Adds the token, and converts Google's errors to Anthropic's for requests to Anthropic's models."""

    async def sign(self, request: Request, credential: Headers) -> None:
        """Add the token."""
        request.headers = [*request.headers, *credential]

    def secrets(self, credential: Headers) -> Iterable[bytes]:
        """Returns the token."""
        return [value.removeprefix(b"Bearer ") for name, value in credential if name == b"authorization"]

    def error(self, request: Request, response: Response, body: bytes) -> bytes:
        """Convert Google's own errors to the publisher's dialect."""
        return _as_anthropic(response.status, body) if "/publishers/anthropic/" in request.target else body


def _as_anthropic(status: int, body: bytes) -> bytes:
    """Converts Google's envelope, alone or in a list; Anthropic's own errors are unchanged."""
    try:
        document = orjson.loads(body)
        error = (document[0] if isinstance(document, list) else document)["error"]
        if isinstance(error, dict) and "status" not in error:
            return body
        message = str(error["message"])
    except (ValueError, LookupError, TypeError):
        message = f"Vertex AI answered {status}"
    return error_body(status, message, "")

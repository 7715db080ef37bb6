"""``provider: bedrock`` and ``provider: bedrock-mantle``: the two endpoints of Amazon Bedrock.

Sources: "Endpoints supported by Amazon Bedrock", "InvokeModel", "CountTokens" and "Converse" of the Bedrock guide and
API reference.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from gwcore.errors import Malformed
from gwcore.provider import Upstream, options_of
from gwcore.units import fault
from gwcore.wire.splice import insert_top_level, remove_top_level
from gwcore.wire.transport import Request, Response, Transport
from gwcore_providers.anthropic.cloud import BetaOptions, betas_of, error_body, versioned
from gwcore_providers.bedrock import credentials as sources
from gwcore_providers.bedrock.framing import CONTENT_TYPE, Unframed, message_of
from gwcore_providers.bedrock.sigv4 import Credentials, Scope, sign
from gwcore_providers.clouds import CloudTransport, Whole, read, renamed
from gwcore_providers.expiring import Expiring
from gwcore_providers.quirks import OWN_SAMPLING, without, words
from gwcore_providers.vendors import Address, Vendor, openai_path, segment

_CLAUDE = words("no_urls", without("service_tier"))
_OPEN = words("max_completion_tokens", "reasoning", "no_audio", "no_file", "no_image", without(*OWN_SAMPLING))
_ELSEWHERE = frozenset({"model", "stream"})
_ANTHROPIC = frozenset({"invoke", "invoke-with-response-stream", "count-tokens"})
_HASHED_ON_THE_LOOP = 1 << 20
# CountTokens accepts models, but not their cross-region inference profiles
_PROFILE = re.compile(r"^(?:us-gov|us|eu|apac|jp|au|ca|global)\.")
# the runtime's OpenAI-compatible endpoint serves open-weight models, not these ("Chat Completions API" of the guide)
_CONVERSED = re.compile(r"(?:^|\.)(?:ai21|amazon|anthropic|cohere|meta|writer)\.")


class AwsOptions(BaseModel):
    """Additional options of every upstream at AWS."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    region: str = Field(pattern="^[a-z0-9-]+$", description="AWS region, such as `us-east-1`.")
    access_key_id: str | None = Field(
        default=None,
        description="Access key id of static credentials; needs `secret_access_key`. If none of it, `profile` and "
        "`api_key` is set, the usual AWS sources are used (environment, files, container, instance).",
    )
    secret_access_key: SecretStr | None = Field(
        default=None, description="Secret of `access_key_id`; write it as `${VAR}`."
    )
    session_token: SecretStr | None = Field(
        default=None,
        description="Session token, if the static credentials are temporary. The gateway cannot renew them.",
    )
    profile: str | None = Field(default=None, description="Profile of AWS's shared config and credentials files.")
    role_arn: str | None = Field(default=None, description="ARN of a role to assume with these credentials.")

    @model_validator(mode="after")
    def _one_source(self) -> AwsOptions:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise fault("has half of the static credentials", "set access_key_id and secret_access_key, or neither")
        if self.access_key_id is not None and self.profile is not None:
            raise fault("has two sources of credentials", "set access_key_id or profile, not both")
        return self


class AwsCredentials:
    """Fetches the configured credentials, for :class:`gwcore_providers.expiring.Expiring`."""

    def __init__(self, options: AwsOptions) -> None:
        self._options = options

    async def __call__(self) -> sources.Found:
        """Returns the credentials, and the epoch second at which they expire."""
        options = self._options
        found = await self._own()
        if options.role_arn is None:
            return found
        return await sources.assumed(found[0], options.role_arn, os.environ, options.region)

    async def _own(self) -> sources.Found:
        options = self._options
        if options.access_key_id is not None and options.secret_access_key is not None:
            token = options.session_token.get_secret_value() if options.session_token else None
            return Credentials(options.access_key_id, options.secret_access_key.get_secret_value(), token), math.inf
        found = await sources.profile(os.environ, options.profile, wanted=True) if options.profile else None
        return found or await sources.default(os.environ, options.region)


class AwsTransport(CloudTransport[Credentials]):
    """Signs requests, and converts Bedrock's framing and errors to what clients of the dialect expect."""

    def __init__(self, gateway: Transport, credential: Expiring[Credentials] | None, scope: Scope) -> None:
        super().__init__(gateway, credential)
        self._scope = scope

    async def sign(self, request: Request, credential: Credentials) -> None:
        """Add a Signature Version 4."""
        signed = [(name, value) for name, value in request.headers if name == b"content-type"]
        signed.append((b"host", request.origin.authority.encode()))
        what = (credential, self._scope, request, signed, datetime.now(UTC))
        large = len(request.body) > _HASHED_ON_THE_LOOP
        request.headers = [*request.headers, *(await asyncio.to_thread(sign, *what) if large else sign(*what))]

    def secrets(self, credential: Credentials) -> Iterable[bytes]:
        """Returns the secret key, which is never sent, and the session token."""
        return [s.encode() for s in (credential.secret_access_key, credential.session_token) if s]

    async def answer(self, request: Request, response: Response) -> Response:
        """Convert event streams and token counts, and rename the request id header for clients."""
        response.headers = renamed(response.headers, request_id=_request_id(response))
        operation = _operation(request)
        if any(name == b"content-type" and value.startswith(CONTENT_TYPE) for name, value in response.headers):
            return Unframed(response, chunks=operation.startswith("invoke"))
        if operation == "count-tokens":
            return Whole(response, _counted(await read(response)), json=True)
        return response

    def error(self, request: Request, response: Response, body: bytes) -> bytes:
        """Convert errors of InvokeModel and CountTokens to Anthropic's dialect; others are unchanged."""
        response.headers = renamed(response.headers, request_id=_request_id(response))
        if _operation(request) not in _ANTHROPIC:
            return body
        said = message_of(body) or f"Bedrock answered {response.status}"
        return error_body(response.status, said, (_request_id(response) or b"").decode("latin-1"))


def _operation(request: Request) -> str:
    return request.target.partition("?")[0].rpartition("/")[2]


def _request_id(response: Response) -> bytes | None:
    return next((value for name, value in response.headers if name in {b"x-amzn-requestid", b"request-id"}), None)


def _counted(body: bytes) -> bytes:
    try:
        return orjson.dumps({"input_tokens": int(orjson.loads(body)["inputTokens"])})
    except (ValueError, LookupError, TypeError):
        raise Malformed("the upstream counted no tokens") from None


class _Aws(Vendor):
    """Common to both endpoints: API key or signatures, and the region."""

    env_key = "AWS_BEARER_TOKEN_BEDROCK"
    service = ""

    def transport(self, gateway: Transport, api_key: str | None, options: BaseModel | None) -> Transport:
        """An API key is sent as a fixed header; without one, requests are signed."""
        assert isinstance(options, AwsOptions)
        credential = None
        if api_key is None:
            credential = Expiring("AWS credentials", AwsCredentials(options), sources.MARGIN)
        return AwsTransport(gateway, credential, Scope(options.region, self.service))


class BedrockOptions(AwsOptions, BetaOptions):
    """Additional options of a ``bedrock`` upstream."""

    anthropic_version: str = Field(
        default="bedrock-2023-05-31",
        pattern="^[a-z0-9-]+$",
        description="`anthropic_version` in the bodies sent to Anthropic's models.",
    )


class Bedrock(_Aws):
    """The runtime endpoint: InvokeModel for Anthropic's models, Converse, and OpenAI's APIs."""

    name = "bedrock"
    base_url = "https://bedrock-runtime.{.region}.amazonaws.com"
    Options = BedrockOptions
    service = "bedrock"

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
        """The model is an id, an inference profile or an ARN, always encoded as one path segment.

        Its vendor decides which dialects it has; Converse is available for all.
        """
        if dialect in {"openai.chat", "openai.responses"}:
            served = operation == "chat" and not _CONVERSED.search(model)
            found = openai_path(dialect, operation, params) if served else None
            return found and (f"{upstream.base_path}/openai/v1{found[0]}", True)
        root = f"{upstream.base_path}/model/{segment(model)}"
        if dialect == "bedrock.converse" and operation == "chat":
            return f"{root}/converse-stream" if stream else f"{root}/converse", False
        # an ARN does not reveal the vendor of its model
        if dialect == "anthropic.messages" and ("anthropic." in model or model.startswith("arn:")):
            if operation in {"chat", "completions"}:
                return f"{root}/invoke-with-response-stream" if stream else f"{root}/invoke", False
            if operation == "count_tokens":
                return f"{upstream.base_path}/model/{segment(_PROFILE.sub('', model))}/count-tokens", False
        return None

    def quirks(self, _upstream: Upstream, model: str) -> frozenset[str]:
        """Anthropic's models accept media only as bytes; open models are served by an OpenAI-compatible endpoint."""
        return _CLAUDE if "anthropic." in model or model.startswith("arn:") else _OPEN

    def prepare(self, upstream: Upstream, request: Request, dialect: str, operation: str, *, stream: bool) -> None:  # noqa: ARG002
        """Convert Anthropic's bodies for InvokeModel; the beta header becomes a key of the body."""
        if dialect != "anthropic.messages":
            return
        request.target = request.target.partition("?")[0]  # only Anthropic's own API knows ?beta=true
        options = options_of(upstream, BedrockOptions)
        betas, knobs = betas_of(request.headers, options.betas)
        if operation == "completions":
            body = remove_top_level(request.body, _ELSEWHERE)
        else:
            body = versioned(request.body, options.anthropic_version, _ELSEWHERE | knobs)
        if betas:
            body = remove_top_level(body, frozenset({"anthropic_beta"}))
            body = insert_top_level(body, "anthropic_beta", orjson.dumps(betas))
        request.headers = renamed(request.headers, anthropic_beta=None, anthropic_version=None)
        request.body = _to_count(body) if operation == "count_tokens" else body


def _to_count(body: bytes) -> bytes:
    """Wrap for CountTokens: a complete InvokeModel body, whose ``max_tokens`` must be above any thinking budget."""
    thinking = orjson.loads(body).get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    enough = orjson.dumps(budget + 1 if isinstance(budget, int) else 1)
    body = insert_top_level(remove_top_level(body, frozenset({"max_tokens"})), "max_tokens", enough)
    return orjson.dumps({"input": {"invokeModel": {"body": b64encode(body).decode()}}})


class MantleOptions(AwsOptions):
    """Additional options of a ``bedrock-mantle`` upstream."""

    root: str = Field(
        default="/v1",
        pattern="^(/openai)?/v1$",
        description="Path of OpenAI's APIs: `/v1`, or `/openai/v1` for models that are served only there.",
    )


class Mantle(_Aws):
    """The endpoint that offers other vendors' APIs unchanged."""

    name = "bedrock-mantle"
    base_url = "https://bedrock-mantle.{.region}.api.aws"
    Options = MantleOptions
    service = "bedrock-mantle"

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
        """OpenAI's APIs are below ``root``, Anthropic's below ``/anthropic``."""
        if dialect == "anthropic.messages":
            paths = {"chat": "/anthropic/v1/messages", "count_tokens": "/anthropic/v1/messages/count_tokens"}
            return (upstream.base_path + paths[operation], True) if operation in paths else None
        found = None
        if dialect == "openai.responses" or (dialect, operation) == ("openai.chat", "chat"):
            found = openai_path(dialect, operation, params)
        return found and (f"{upstream.base_path}{options_of(upstream, MantleOptions).root}{found[0]}", found[1])

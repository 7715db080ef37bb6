"""Converts LiteLLM's prefixes of models to upstreams."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from gwcore_litellm.draft import name_of
from gwcore_litellm.findings import Status
from gwcore_litellm.names import ALIKE, FOREIGN
from gwcore_litellm.source import Section

COMPATIBLE: Final = "openai-compatible"
_OPENAI: Final = "api.openai.com"
_ADDED: Final = re.compile(
    r"(/+(v1(/(messages|complete|chat/completions))?|v1beta(/models(/.*)?)?|openai(/v1|/responses|/deployments/.*)?"
    r"|models(/chat/completions)?|api(/(chat|generate|embed|embeddings))?))?/*$"
)
"""Paths appended to the base URLs of Azure, Anthropic, Gemini and Ollama; a gateway's own path before them stays."""
_FOUNDRY: Final = (".services.ai.azure.com", ".openai.azure.com", ".cognitiveservices.azure.com")
"""Hosts that serve models under the paths of Azure OpenAI."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """The vendor of a prefix.

    Attributes:
        provider: value of ``upstreams.<name>.provider``.
        key: environment variable that LiteLLM reads for a credential that the file does not set.
        base: environment variable that it reads for an address that the file does not set.
        url: the address, if gwcore's provider has none or another.
        bare: the provider's address is an origin, but LiteLLM accepts one with a path.
    """

    provider: str
    key: str = ""
    base: str = ""
    url: str = ""
    bare: bool = False


def _compatible(url: str, key: str) -> Vendor:
    return Vendor(COMPATIBLE, key, url=url)


VENDORS: Final[dict[str, Vendor]] = {
    "openai": Vendor("openai", "OPENAI_API_KEY"),
    "text-completion-openai": Vendor("openai", "OPENAI_API_KEY"),
    "azure": Vendor("azure", "AZURE_API_KEY", "AZURE_API_BASE", bare=True),
    "azure_text": Vendor("azure", "AZURE_API_KEY", "AZURE_API_BASE", bare=True),
    "azure_ai": Vendor("azure", "AZURE_AI_API_KEY", "AZURE_AI_API_BASE", bare=True),
    "anthropic": Vendor("anthropic", "ANTHROPIC_API_KEY", bare=True),
    "anthropic_text": Vendor("anthropic", "ANTHROPIC_API_KEY", bare=True),
    "gemini": Vendor("gemini", "GEMINI_API_KEY", bare=True),
    "vertex_ai": Vendor("vertex"),
    "vertex_ai_beta": Vendor("vertex"),
    "bedrock": Vendor("bedrock"),
    "bedrock_converse": Vendor("bedrock"),
    "ollama": Vendor("ollama", base="OLLAMA_API_BASE:-http://localhost:11434", bare=True),
    "ollama_chat": Vendor("ollama", base="OLLAMA_API_BASE:-http://localhost:11434", bare=True),
    "cohere": Vendor("cohere", "COHERE_API_KEY"),
    "cohere_chat": Vendor("cohere", "COHERE_API_KEY"),
    "groq": Vendor("groq", "GROQ_API_KEY"),
    "mistral": Vendor("mistral", "MISTRAL_API_KEY"),
    "openrouter": Vendor("openrouter", "OPENROUTER_API_KEY"),
    "together_ai": Vendor("together", "TOGETHERAI_API_KEY"),
    "xai": Vendor("xai", "XAI_API_KEY"),
    "deepinfra": Vendor("deepinfra", "DEEPINFRA_API_KEY"),
    "deepseek": Vendor("deepseek", "DEEPSEEK_API_KEY"),
    "fireworks_ai": Vendor("fireworks", "FIREWORKS_API_KEY"),
    "huggingface": Vendor("huggingface", "HUGGINGFACE_API_KEY"),
    "hosted_vllm": Vendor("vllm", base="HOSTED_VLLM_API_BASE"),
    "lm_studio": Vendor("lmstudio", base="LM_STUDIO_API_BASE"),
    "llamafile": Vendor("llamacpp", base="LLAMAFILE_API_BASE"),
    "perplexity": Vendor("perplexity", "PERPLEXITYAI_API_KEY"),
    "sambanova": Vendor("sambanova", "SAMBANOVA_API_KEY"),
    "cerebras": Vendor("cerebras", "CEREBRAS_API_KEY"),
    "nvidia_nim": Vendor("nvidia", "NVIDIA_NIM_API_KEY"),
    "voyage": Vendor("voyage", "VOYAGE_API_KEY"),
    "databricks": Vendor("databricks", "DATABRICKS_API_KEY", "DATABRICKS_API_BASE"),
    "ai21": Vendor("ai21", "AI21_API_KEY"),
    "ai21_chat": Vendor("ai21", "AI21_API_KEY"),
    "baseten": Vendor("baseten", "BASETEN_API_KEY"),
    "moonshot": Vendor("moonshot", "MOONSHOT_API_KEY"),
    "dashscope": Vendor("alibaba", "DASHSCOPE_API_KEY"),
    "zai": Vendor("zai", "ZAI_API_KEY"),
    "vercel_ai_gateway": Vendor("vercel-gateway", "VERCEL_AI_GATEWAY_API_KEY"),
    "openai_like": Vendor(COMPATIBLE, "OPENAI_LIKE_API_KEY", "OPENAI_LIKE_API_BASE"),
    "custom_openai": Vendor(COMPATIBLE),
    "litellm_proxy": Vendor(COMPATIBLE, "LITELLM_PROXY_API_KEY", "LITELLM_PROXY_API_BASE"),
    "meta_llama": _compatible("https://api.llama.com/compat/v1", "LLAMA_API_KEY"),
    "nebius": _compatible("https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    "novita": _compatible("https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    "volcengine": _compatible("https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
    "github": _compatible("https://models.inference.ai.azure.com", "GITHUB_API_KEY"),
    "codestral": _compatible("https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
    "featherless_ai": _compatible("https://api.featherless.ai/v1", "FEATHERLESS_AI_API_KEY"),
    "friendliai": _compatible("https://api.friendli.ai/serverless/v1", "FRIENDLI_TOKEN"),
    "hyperbolic": _compatible("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "lambda_ai": _compatible("https://api.lambda.ai/v1", "LAMBDA_API_KEY"),
    "nscale": _compatible("https://inference.api.nscale.com/v1", "NSCALE_API_KEY"),
}
"""Prefix → vendor, without those that LiteLLM calls in another API than OpenAI's and that gwcore does not support."""

_GUESSES: Final = (
    (
        re.compile(r"gpt-|o\d|chatgpt-|text-embedding-(3|ada)|dall-e|whisper|tts-|omni-moderation|codex|ft:gpt"),
        "openai",
    ),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-|text-(multilingual-)?embedding-\d{3}$"), "vertex_ai"),
    (re.compile(r"command-|embed-(english|multilingual)"), "cohere"),
)
"""Prefixes that LiteLLM assumes for models without one."""


def vendor_of(params: Section) -> tuple[str, str] | None:
    """The prefix and the model after it, from ``litellm_params``; ``None`` if unknown or not supported."""
    model = params.text("model", "a target")
    if not isinstance(model, str) or not model:
        return None
    said = params.text("custom_llm_provider", "the upstream's provider")
    if said and model.partition("/")[0] != said:
        model = f"{said}/{model}"
    prefix, slash, rest = model.partition("/")
    if slash and prefix in VENDORS:
        return prefix, rest
    if slash and prefix in FOREIGN:
        return None
    for pattern, guessed in _GUESSES:
        if not slash and pattern.match(model):
            return guessed, model
    if params.peek("api_base") or params.peek("base_url"):
        return "custom_openai", rest if prefix in ALIKE else model
    return None


def settings(params: Section, prefix: str, model: str) -> tuple[dict[str, Any], str]:
    """Keys of the upstream for ``litellm_params``, and the model's name there."""
    vendor = VENDORS[prefix]
    base = params.text("api_base", "the upstream's base_url") or params.text("base_url", "the upstream's base_url")
    base = base or vendor.url or (f"${{{vendor.base}}}" if vendor.base else None)
    found: dict[str, Any] = {"provider": _azure_ai(base, model) if prefix == "azure_ai" else vendor.provider}
    key = params.text("api_key", "the upstream's api_key")
    own = base is None or urlsplit(base).hostname == _OPENAI
    if vendor.provider == "openai" and not own:
        found["provider"] = COMPATIBLE
    elif key is None and vendor.key:
        key = f"${{{vendor.key}}}"
    if base is not None and not (own and vendor.provider == "openai"):
        found["base_url"] = _bare(params, base) if vendor.bare and found["provider"] != COMPATIBLE else base
    if prefix == "azure_ai" and found["provider"] == "anthropic":
        found["base_url"] = found["base_url"].removesuffix("/anthropic") + "/anthropic"
    if key is not None:
        found["api_key"] = key
    if special := _SPECIAL.get(found["provider"]):
        model = special(params, found, model)
    organization = params.take("organization", "a header of the upstream")
    if isinstance(organization, str):
        found["headers"] = {"openai-organization": organization}
    elif organization is not None:
        said = "one upstream per organisation, each with its own headers: openai-organization"
        params.say(Status.MANUAL, "organization", said)
    return found, model


def _bare(params: Section, base: str) -> str:
    """The address without the path that the vendor's SDK appends, and without a query."""
    parts = urlsplit(base)
    path = _ADDED.sub("", parts.path)
    if parts.netloc and (path != parts.path.rstrip("/") or parts.query):
        key = "api_base" if "api_base" in params else "base_url"
        params.say(Status.APPROXIMATE, key, "the upstream's base_url, without what follows by itself")
        return f"{parts.scheme}://{parts.netloc}{path}"
    return base.rstrip("/")


def upstream_name(prefix: str, upstream: dict[str, Any]) -> str:
    """Named after the provider; an OpenAI-compatible upstream after its prefix or its host."""
    if upstream["provider"] != COMPATIBLE:
        return str(upstream["provider"])
    if upstream.get("base_url") == VENDORS[prefix].url:
        return name_of(prefix)
    host = urlsplit(str(upstream.get("base_url", ""))).hostname or ""
    labels = [label for label in host.split(".") if label not in {"", "api", "www"} and not label.isdigit()]
    if labels and host != "localhost" and "$" not in host:
        return name_of(labels[0])
    return "local" if host else name_of(prefix.removeprefix("custom_"))


def _azure(params: Section, found: dict[str, Any], model: str) -> str:
    version = params.text("api_version", "the upstream's api_version")
    if version is not None:
        found["api_version"] = version
    if "base_url" not in found:
        found["base_url"] = "${AZURE_API_BASE}"
    for key in ("azure_ad_token", "tenant_id", "client_id", "client_secret", "azure_username", "azure_password"):
        if key in params:
            params.say(Status.MANUAL, key, "Entra ID is not asked for tokens here: give the upstream an api_key")
    return model.removeprefix("o_series/").removeprefix("gpt5_series/").removeprefix("responses/")


def _azure_ai(base: str | None, model: str) -> str:
    """The provider at an Azure AI address: Anthropic for Claude, Azure for its own hosts, else OpenAI-compatible."""
    host = urlsplit(base or "").hostname or ""
    if "claude" in model.lower():
        return "anthropic"
    return "azure" if not host or "$" in host or host.endswith(_FOUNDRY) else COMPATIBLE


def _gemini(params: Section, _found: dict[str, Any], model: str) -> str:
    key = "api_base" if "api_base" in params else "base_url"
    if key in params and not urlsplit(str(params.peek(key))).path.rstrip("/").endswith("/v1beta"):
        said = "LiteLLM asks for /models/… below it, the upstream's base_url is asked for /v1beta/models/…: see that it is there"
        params.say(Status.MANUAL, key, said)
    return model


def _vertex(params: Section, found: dict[str, Any], model: str) -> str:
    found.pop("base_url", None)
    for key in ("api_base", "base_url"):
        if key in params:
            said = "left out: `vertex` asks Google's own address of the location. Behind a proxy it is an upstream of its own"
            params.say(Status.MANUAL, key, said)
    for theirs, ours in (("vertex_project", "project"), ("vertex_location", "location")):
        value = params.text(theirs, f"the upstream's {ours}")
        if value is not None:
            found[ours] = value
        else:
            found[ours] = {"project": "${VERTEXAI_PROJECT}", "location": "${VERTEXAI_LOCATION:-us-central1}"}[ours]
    credentials = params.peek("vertex_credentials")
    if isinstance(credentials, str) and credentials.endswith(".json") and "os.environ" not in credentials:
        found["credentials"] = f"${{file:{credentials}}}"
        params.say(Status.EXACT, "vertex_credentials", "the upstream's credentials, out of that file")
    elif credentials is not None:
        said = "credentials: ${file:key.json}, or nothing for Application Default Credentials"
        params.say(Status.MANUAL, "vertex_credentials", said)
    return model


_AWS: Final = {
    "aws_region_name": "region",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "aws_profile_name": "profile",
    "aws_role_name": "role_arn",
}


def _bedrock(params: Section, found: dict[str, Any], model: str) -> str:
    for theirs, ours in _AWS.items():
        value = params.text(theirs, f"the upstream's {ours}")
        if value is not None:
            found[ours] = value
    endpoint = params.text("aws_bedrock_runtime_endpoint", "the upstream's base_url")
    if endpoint is not None:
        found["base_url"] = endpoint
    for word in ("converse/", "converse_like/", "invoke/"):
        model = model.removeprefix(word)
    region, slash, rest = model.partition("/")
    if slash and re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", region):
        found.setdefault("region", region)
        model = rest
    if "region" not in found and (arn := re.match(r"(?:[\w-]+/)?arn:aws[\w-]*:bedrock:([a-z0-9-]+):", model)):
        found["region"] = arn[1]
    if "region" not in found:
        found["region"] = "${AWS_REGION_NAME}"
        said = (
            "set AWS_REGION_NAME: LiteLLM takes AWS_REGION, AWS's own configuration and us-west-2 where it is not set"
        )
        params.say(Status.MANUAL, "model", f"a target. Its region is nowhere in the file; {said}")
    return model


_SPECIAL: Final[dict[str, Callable[[Section, dict[str, Any], str], str]]] = {
    "azure": _azure,
    "gemini": _gemini,
    "vertex": _vertex,
    "bedrock": _bedrock,
    "openai": lambda _params, _found, model: model.removeprefix("responses/"),
    COMPATIBLE: lambda _params, _found, model: model.removeprefix("responses/"),
}

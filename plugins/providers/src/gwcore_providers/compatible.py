"""OpenAI-compatible vendors, as rows of a table. ``base_url`` is the one the vendor documents for OpenAI's SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
from pydantic import BaseModel

from gwcore.errors import BadRequest
from gwcore.knobs import Places, said
from gwcore.provider import Upstream
from gwcore.wire.splice import remove_top_level
from gwcore.wire.transport import Request
from gwcore_providers.quirks import OPENAI_CHAT, OPENAI_MODELS, OWN_SAMPLING, efforts, found, without, words
from gwcore_providers.vendors import Address, Vendor, openai_path

GENERATION = frozenset({"chat", "completions"})
TEXT = GENERATION | {"embeddings"}
AUDIO = frozenset({"speech", "transcription", "translation"})
FILES = frozenset({"files", "file_content"})
BATCHES = frozenset({"batches", "batch_cancel"})
EVERYTHING = None

_STORED = ("store", "metadata", "user", "service_tier", "verbosity", "cache_key", "cache_retention", "safety_id")
_LISTS = frozenset({"embeddings", "rerank"})
_USUAL = efforts("low", "medium", "high")
_IMAGES = words("no_audio", "no_file")
_TEXT_ALONE = _IMAGES | {"no_image"}

UNCOUNTED = {"chat": "/messages"}
COUNTED = {**UNCOUNTED, "count_tokens": "/messages/count_tokens"}


@dataclass(slots=True, frozen=True)
class Row:
    """One vendor.

    Attributes:
        root: path appended to ``base_url`` if that is a bare origin (Ollama, TEI).
        operations: those it serves in ``openai.chat``; ``None`` means all.
        responses: whether it serves the Responses API.
        paths: operation → path, for operations whose path differs.
        messages: operation of ``anthropic.messages`` → path, if the vendor also speaks that dialect.
        without: keys that it rejects in streaming requests. They are removed; the gateway itself adds some.
        others: request members that name further models to try. Rejected: those are neither authorised nor priced.
        quirks: words of :mod:`gwcore_providers.quirks`, for requests that are translated to ``openai.chat``.
        models: pattern → further quirks of models whose name it matches; all matching patterns apply.
        lists: which of embeddings and rerank differ in limits or keys from what OpenAI clients expect.
        local: a server run by its operator, so tokens cost nothing.
    """

    base_url: str | None = None
    env_key: str | None = None
    root: str = ""
    operations: frozenset[str] | None = EVERYTHING
    responses: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    others: Places = ()
    quirks: frozenset[str] = frozenset()
    models: Mapping[str, frozenset[str]] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    local: bool = False


# The source of each row is the vendor's documentation, at the address above it.
ROWS: dict[str, Row] = {
    # https://platform.openai.com/docs/api-reference
    "openai": Row(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        responses=True,
        quirks=OPENAI_CHAT,
        models=OPENAI_MODELS,
    ),
    # any other server: its limits are unknown, so nothing is refused
    "openai-compatible": Row(responses=True, quirks=words("video")),
    # https://docs.ai21.com/reference
    "ai21": Row("https://api.ai21.com/studio/v1", "AI21_API_KEY", operations=TEXT, quirks=_TEXT_ALONE),
    # https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope
    "alibaba": Row(
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        operations=TEXT,
        quirks=words("enable_thinking", "video", "cache_control", "no_file"),
    ),
    # https://docs.baseten.co/inference/model-apis/overview
    "baseten": Row("https://inference.baseten.co/v1", "BASETEN_API_KEY", operations=TEXT, quirks=_IMAGES),
    # https://inference-docs.cerebras.ai/{api-reference,resources/openai}: no embeddings
    "cerebras": Row(
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        operations=GENERATION,
        quirks=words(
            "max_completion_tokens",
            "reasoning",
            _IMAGES,
            without("presence_penalty", "frequency_penalty", "logit_bias", *OWN_SAMPLING, *_STORED),
        ),
        models={r"glm": efforts("none")},
    ),
    # https://docs.cohere.com/docs/compatibility-api: it rejects stream_options. Embeddings and rerank: see cohere/provider.py
    "cohere": Row(
        "https://api.cohere.ai/compatibility/v1",
        "CO_API_KEY",
        operations=frozenset({"chat"}),
        without=frozenset({"stream_options"}),
        quirks=words(
            "batch:96", "no_stream_options", "one_answer", _IMAGES, without("logit_bias", "top_logprobs", *_STORED)
        ),
    ),
    # https://docs.databricks.com/machine-learning/foundation-model-apis/api-reference
    "databricks": Row(env_key="DATABRICKS_TOKEN", operations=TEXT, quirks=words("cache_control", _IMAGES)),
    # https://deepinfra.com/docs/openai_api
    "deepinfra": Row(
        "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", quirks=words(_IMAGES, _USUAL, efforts("none"))
    ),
    # https://api-docs.deepseek.com, …/guides/{responses_api,anthropic_api,fim_completion,thinking_mode}: FIM is beta, with
    # a path of its own; a turn with tool calls is rejected without the thought it began with
    "deepseek": Row(
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        operations=GENERATION,
        responses=True,
        paths={"completions": "/beta/completions"},
        messages={"chat": "/anthropic/v1/messages"},
        quirks=words(
            "thinking_switch",
            efforts("low", "high", "max"),
            "reasoning_content",
            "thoughts_required",
            "no_schema",
            "one_answer",
            _TEXT_ALONE,
            without("seed", "logit_bias", *OWN_SAMPLING, *_STORED),
        ),
    ),
    # https://docs.fireworks.ai/api-reference
    "fireworks": Row(
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        operations=TEXT | {"rerank"},
        lists=frozenset({"rerank"}),
        responses=True,
        quirks=words("reasoning_content", _IMAGES, _USUAL, efforts("none")),
    ),
    # https://console.groq.com/docs/{openai,api-reference,reasoning}: no completions, no embeddings
    "groq": Row(
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        operations=frozenset({"chat"}) | AUDIO | FILES | BATCHES,
        responses=True,
        quirks=words(
            "max_completion_tokens",
            "reasoning",
            "one_answer",
            _IMAGES,
            without(
                "logprobs",
                "top_logprobs",
                "logit_bias",
                "verbosity",
                "cache_key",
                "cache_retention",
                "safety_id",
                *OWN_SAMPLING,
            ),
        ),
        models={r"qwen": efforts("none")},
    ),
    # https://huggingface.co/docs/inference-providers: other tasks have provider-specific addresses
    "huggingface": Row(
        "https://router.huggingface.co/v1", "HF_TOKEN", operations=GENERATION, responses=True, quirks=_IMAGES
    ),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "llamacpp": Row(
        "http://127.0.0.1:8080/v1",
        operations=TEXT | {"rerank", "transcription"},
        responses=True,
        messages=COUNTED,
        local=True,
        quirks=words("reasoning_content", "no_file"),
    ),
    # https://lmstudio.ai/docs/developer/openai-compat and /anthropic-compat
    "lmstudio": Row(
        "http://127.0.0.1:1234/v1", operations=TEXT, responses=True, messages=UNCOUNTED, local=True, quirks=_IMAGES
    ),
    # https://docs.mistral.ai/api and its OpenAPI document, which forbids all other keys. Its batches are jobs of a
    # different shape; FIM replies like chat
    "mistral": Row(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        operations=frozenset({"chat", "embeddings", "moderations", "transcription", "speech"}) | FILES,
        quirks=words(
            "ids9",
            "random_seed",
            "no_stream_options",
            "thinking",
            "document_url",
            "bare_audio",
            "output_dimension",
            "no_tokens",
            "batch_tokens:15000",
            without(
                "logprobs",
                "top_logprobs",
                "logit_bias",
                "store",
                "user",
                "service_tier",
                "verbosity",
                "cache_retention",
                "safety_id",
                "truncate",
                *OWN_SAMPLING,
            ),
        ),
        lists=frozenset({"embeddings"}),
        models={r"mistral-(?:small|medium)-(?:latest|26\d\d|3[.-]5|4)": efforts("none", "high")},
    ),
    # https://platform.moonshot.ai/docs, …/guide/use-kimi-k2-thinking-model
    "moonshot": Row(
        "https://api.moonshot.ai/v1",
        "MOONSHOT_API_KEY",
        quirks=words("reasoning_content", "video", _IMAGES),
        models={
            r"kimi-k2\.[5-9]|kimi-k[3-9]|kimi-latest": words("thinking_switch", "thoughts_required"),
            r"kimi-k2-thinking": words("thoughts_required"),
        },
    ),
    # https://docs.api.nvidia.com
    "nvidia": Row(
        "https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY", quirks=words("reasoning_content", "video", _IMAGES)
    ),
    # https://docs.ollama.com/api/openai-compatibility and /api/anthropic-compatibility
    "ollama": Row(
        "http://127.0.0.1:11434",
        "OLLAMA_API_KEY",
        root="/v1",
        operations=TEXT | {"image_generation", "speech", "transcription"},
        responses=True,
        messages=UNCOUNTED,
        local=True,
        quirks=words("reasoning", "one_answer", "auto_tools", "no_urls", _IMAGES, _USUAL, efforts("none")),
    ),
    # https://openrouter.ai/docs/api-reference, /docs/features/model-routing and /docs/use-cases/reasoning-tokens
    "openrouter": Row(
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        others=(("models",),),
        operations=TEXT | {"rerank"},
        responses=True,
        messages=UNCOUNTED,
        quirks=words("reasoning_object", "reasoning_details", "cache_control", "video", "file_url"),
    ),
    # https://docs.perplexity.ai/api-reference
    "perplexity": Row(
        "https://api.perplexity.ai",
        "PERPLEXITY_API_KEY",
        operations=TEXT,
        responses=True,
        quirks=words("one_answer", _IMAGES),
        models={r"deep-research|reasoning": efforts("minimal", "low", "medium", "high")},
    ),
    # https://docs.sambanova.ai/docs/en/features/openai-compatibility
    "sambanova": Row("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", operations=TEXT, quirks=_IMAGES),
    # https://huggingface.github.io/text-embeddings-inference; its own /embed and /rerank: see tei/provider.py
    "tei": Row(
        "http://127.0.0.1:8080",
        root="/v1",
        operations=frozenset({"embeddings"}),
        lists=frozenset({"embeddings"}),
        quirks=without("user", "truncate"),
        local=True,
    ),
    # https://docs.together.ai/docs/inference/openai-compatibility
    "together": Row(
        "https://api.together.ai/v1",
        "TOGETHER_API_KEY",
        operations=TEXT | AUDIO | FILES | BATCHES | {"image_generation", "rerank"},
        quirks=words("reasoning", "video", _IMAGES),
    ),
    # https://docs.venice.ai/api-reference
    "venice": Row("https://api.venice.ai/api/v1", "VENICE_API_KEY", quirks=words("video", "no_file", _USUAL)),
    # https://vercel.com/docs/ai-gateway/sdks-and-apis
    "vercel-gateway": Row(
        "https://ai-gateway.vercel.sh/v1",
        "AI_GATEWAY_API_KEY",
        others=(("models",), ("providerOptions", "gateway", "models")),
        responses=True,
        messages=UNCOUNTED,
        quirks=words("reasoning_object", "reasoning_details", "cache_control"),
    ),
    # https://docs.vllm.ai/en/stable/serving/online_serving.html
    "vllm": Row(
        "http://127.0.0.1:8000/v1",
        "VLLM_API_KEY",
        operations=TEXT | {"rerank", "transcription", "translation"},
        responses=True,
        messages=COUNTED,
        local=True,
        quirks=words("reasoning", "video", "no_file", _USUAL, efforts("none")),
    ),
    # https://docs.voyageai.com/reference and its OpenAPI document
    "voyage": Row(
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY",
        operations=_LISTS,
        lists=_LISTS,
        # its lowest limits: 128 texts with 120,000 tokens in all, 1,000 documents with 300,000
        quirks=words(
            "batch:128",
            "batch_tokens:110000",
            "rerank_batch:1000",
            "output_dimension",
            "input_type",
            "top_k",
            "no_tokens",
            without("user"),
        ),
    ),
    # https://docs.x.ai/developers/rest-api-reference: image edits are JSON; its Anthropic API is deprecated
    "xai": Row(
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        operations=TEXT | FILES | BATCHES | {"image_generation"},
        responses=True,
        quirks=words("max_completion_tokens", "reasoning_content", _IMAGES, without(*OWN_SAMPLING)),
        models={
            r"grok-3-mini": efforts("low", "high"),
            r"grok-(?:[4-9]|3-mini|code)": without("presence_penalty", "frequency_penalty", "stop"),
        },
    ),
    # https://docs.z.ai/api-reference
    "zai": Row(
        "https://api.z.ai/api/paas/v4",
        "ZAI_API_KEY",
        operations=TEXT,
        quirks=words(
            "thinking_switch",
            "reasoning_content",
            "video",
            "no_audio",
            "no_file",
            "no_schema",
            "auto_tools",
            "one_answer",
        ),
    ),
}


class Compatible(Vendor):
    """The provider of one row."""

    Options: type[BaseModel] | None = None

    def __init__(self, name: str, row: Row) -> None:
        self.name = name
        self.row = row
        self.base_url = row.base_url
        self.env_key = row.env_key

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
        """OpenAI's paths below the row's root, and Anthropic's if the vendor serves them."""
        row = self.row
        if dialect == "anthropic.messages":
            path = row.messages.get(operation)
            return None if path is None else (upstream.base_path + row.root + path, True)
        listed = operation in row.lists
        if dialect == "openai.lists" and listed:
            dialect, listed = "openai.chat", False
        if dialect == "openai.responses":
            if not row.responses:
                return None
        elif listed or (row.operations is not None and operation not in row.operations):
            return None
        found = openai_path(dialect, operation, params)
        if found is None:
            return None
        return f"{upstream.base_path}{row.root}{row.paths.get(operation, found[0])}", found[1]

    def quirks(self, _upstream: Upstream, model: str) -> frozenset[str]:
        """The row's quirks, and those of its model patterns that match."""
        return self.row.quirks | found(self.row.models, model)


class Particular(Compatible):
    """The provider of a row with request keys that the vendor or the gateway rejects."""

    def prepare(self, _upstream: Upstream, request: Request, _dialect: str, _operation: str, *, stream: bool) -> None:
        """Remove the keys the vendor rejects. Raises ``BadRequest`` if the request names further models."""
        body = request.body
        # a JSON escape may spell any name
        if self.row.others and (b"models" in body or b"\\u" in body):
            _refuse(body, self.row.others)
        if stream and self.row.without:
            request.body = remove_top_level(request.body, self.row.without)


def _refuse(body: bytes, others: Places) -> None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return  # a form or a file
    for path in others:
        if said(document, (path,)):
            raise BadRequest(
                f"{'.'.join(path)} names further models; list them under `models` of the stack file instead"
            )


def provider_of(name: str) -> Compatible:
    """The provider of the row with that name."""
    row = ROWS[name]
    return Particular(name, row) if row.without or row.others else Compatible(name, row)

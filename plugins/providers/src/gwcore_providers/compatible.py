"""Vendors that speak OpenAI: rows of a table. ``base_url`` is what the vendor's own documentation gives an OpenAI SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from gwcore.provider import Upstream
from gwcore.wire.splice import remove_top_level
from gwcore.wire.transport import Request
from gwcore_providers.vendors import Address, Vendor, openai_path

GENERATION = frozenset({"chat", "completions"})
TEXT = GENERATION | {"embeddings"}
AUDIO = frozenset({"speech", "transcription", "translation"})
FILES = frozenset({"files", "file_content"})
BATCHES = frozenset({"batches", "batch_cancel"})
EVERYTHING = None

UNCOUNTED = {"chat": "/messages"}
COUNTED = {**UNCOUNTED, "count_tokens": "/messages/count_tokens"}


@dataclass(slots=True, frozen=True)
class Row:
    """One vendor.

    Attributes:
        root: put behind ``base_url`` where that is the bare origin (Ollama, TEI).
        operations: what it serves in ``openai.chat``; ``None`` is whatever the client asks for.
        responses: whether it serves the Responses API.
        paths: operations whose path differs.
        messages: operation of ``anthropic.messages`` → path, where the vendor speaks that dialect, too.
        without: keys of a streaming request that it refuses. They are taken out; the gateway itself adds some.
        local: a server that its operator runs, so that tokens cost nothing.
    """

    base_url: str | None = None
    env_key: str | None = None
    root: str = ""
    operations: frozenset[str] | None = EVERYTHING
    responses: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    local: bool = False


# The source of a row is the vendor's own documentation, at the address above it.
ROWS: dict[str, Row] = {
    # https://platform.openai.com/docs/api-reference
    "openai": Row("https://api.openai.com/v1", "OPENAI_API_KEY", responses=True),
    # any other server: nothing is known, so nothing is refused
    "openai-compatible": Row(responses=True),
    # https://docs.ai21.com/reference
    "ai21": Row("https://api.ai21.com/studio/v1", "AI21_API_KEY", operations=TEXT),
    # https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope
    "alibaba": Row("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", operations=TEXT),
    # https://docs.baseten.co/inference/model-apis/overview
    "baseten": Row("https://inference.baseten.co/v1", "BASETEN_API_KEY", operations=TEXT),
    # https://inference-docs.cerebras.ai/api-reference: no embeddings
    "cerebras": Row("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", operations=GENERATION),
    # https://docs.cohere.com/docs/compatibility-api: chat and embeddings; stream_options is refused
    "cohere": Row(
        "https://api.cohere.ai/compatibility/v1",
        "CO_API_KEY",
        operations=frozenset({"chat", "embeddings"}),
        without=frozenset({"stream_options"}),
    ),
    # https://docs.databricks.com/machine-learning/foundation-model-apis/api-reference
    "databricks": Row(env_key="DATABRICKS_TOKEN", operations=TEXT),
    # https://deepinfra.com/docs/openai_api
    "deepinfra": Row("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    # https://api-docs.deepseek.com, …/guides/{responses_api,anthropic_api,fim_completion}: FIM is beta, with an address of its own
    "deepseek": Row(
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        operations=GENERATION,
        responses=True,
        paths={"completions": "/beta/completions"},
        messages={"chat": "/anthropic/v1/messages"},
    ),
    # https://docs.fireworks.ai/api-reference
    "fireworks": Row(
        "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", operations=TEXT | {"rerank"}, responses=True
    ),
    # https://console.groq.com/docs/openai and /docs/api-reference: no completions, no embeddings
    "groq": Row(
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        operations=frozenset({"chat"}) | AUDIO | FILES | BATCHES,
        responses=True,
    ),
    # https://huggingface.co/docs/inference-providers: other tasks have addresses of each provider's own
    "huggingface": Row("https://router.huggingface.co/v1", "HF_TOKEN", operations=GENERATION, responses=True),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "llamacpp": Row(
        "http://127.0.0.1:8080/v1",
        operations=TEXT | {"rerank", "transcription"},
        responses=True,
        messages=COUNTED,
        local=True,
    ),
    # https://lmstudio.ai/docs/developer/openai-compat and /anthropic-compat
    "lmstudio": Row("http://127.0.0.1:1234/v1", operations=TEXT, responses=True, messages=UNCOUNTED, local=True),
    # https://docs.mistral.ai/api: its batches are jobs of another shape, FIM answers as a chat does
    "mistral": Row(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        operations=frozenset({"chat", "embeddings", "moderations", "transcription", "speech"}) | FILES,
    ),
    # https://platform.moonshot.ai/docs
    "moonshot": Row("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    # https://docs.api.nvidia.com
    "nvidia": Row("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    # https://docs.ollama.com/api/openai-compatibility and /api/anthropic-compatibility
    "ollama": Row(
        "http://127.0.0.1:11434",
        "OLLAMA_API_KEY",
        root="/v1",
        operations=TEXT | {"image_generation", "speech", "transcription"},
        responses=True,
        messages=UNCOUNTED,
        local=True,
    ),
    # https://openrouter.ai/docs/api-reference
    "openrouter": Row(
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        operations=TEXT | {"rerank"},
        responses=True,
        messages=UNCOUNTED,
    ),
    # https://docs.perplexity.ai/api-reference
    "perplexity": Row("https://api.perplexity.ai", "PERPLEXITY_API_KEY", operations=TEXT, responses=True),
    # https://docs.sambanova.ai/docs/en/features/openai-compatibility
    "sambanova": Row("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", operations=TEXT),
    # https://huggingface.github.io/text-embeddings-inference: its own /embed and /rerank are not OpenAI's
    "tei": Row("http://127.0.0.1:8080", root="/v1", operations=frozenset({"embeddings"}), local=True),
    # https://docs.together.ai/docs/inference/openai-compatibility
    "together": Row(
        "https://api.together.ai/v1",
        "TOGETHER_API_KEY",
        operations=TEXT | AUDIO | FILES | BATCHES | {"image_generation", "rerank"},
    ),
    # https://docs.venice.ai/api-reference
    "venice": Row("https://api.venice.ai/api/v1", "VENICE_API_KEY"),
    # https://vercel.com/docs/ai-gateway/sdks-and-apis
    "vercel-gateway": Row("https://ai-gateway.vercel.sh/v1", "AI_GATEWAY_API_KEY", responses=True, messages=UNCOUNTED),
    # https://docs.vllm.ai/en/stable/serving/online_serving.html
    "vllm": Row(
        "http://127.0.0.1:8000/v1",
        "VLLM_API_KEY",
        operations=TEXT | {"rerank", "transcription", "translation"},
        responses=True,
        messages=COUNTED,
        local=True,
    ),
    # https://docs.voyageai.com/reference
    "voyage": Row("https://api.voyageai.com/v1", "VOYAGE_API_KEY", operations=frozenset({"embeddings", "rerank"})),
    # https://docs.x.ai/developers/rest-api-reference: edits of images are JSON there; its Anthropic API is deprecated
    "xai": Row(
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        operations=TEXT | FILES | BATCHES | {"image_generation"},
        responses=True,
    ),
    # https://docs.z.ai/api-reference
    "zai": Row("https://api.z.ai/api/paas/v4", "ZAI_API_KEY", operations=TEXT),
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
        """OpenAI's paths below the row's root, and Anthropic's where the vendor has them."""
        row = self.row
        if dialect == "anthropic.messages":
            path = row.messages.get(operation)
            return None if path is None else (upstream.base_path + row.root + path, True)
        if dialect == "openai.responses":
            if not row.responses:
                return None
        elif row.operations is not None and operation not in row.operations:
            return None
        found = openai_path(dialect, operation, params)
        if found is None:
            return None
        return f"{upstream.base_path}{row.root}{row.paths.get(operation, found[0])}", found[1]


class Particular(Compatible):
    """The provider of a row with keys that the vendor refuses."""

    def prepare(self, _upstream: Upstream, request: Request, _dialect: str, _operation: str, *, stream: bool) -> None:
        """Take them out."""
        if stream:
            request.body = remove_top_level(request.body, self.row.without)


def provider_of(name: str) -> Compatible:
    """The provider of the row with that name."""
    row = ROWS[name]
    return Particular(name, row) if row.without else Compatible(name, row)

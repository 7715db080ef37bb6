"""Vendors that speak OpenAI: rows of a table. ``base_url`` is what the vendor's own documentation gives an OpenAI SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from gwcore.provider import Upstream
from gwcore_providers.vendors import Address, Vendor, openai_path

CHAT = frozenset({"chat", "completions", "embeddings"})
EVERYTHING = None


@dataclass(slots=True, frozen=True)
class Row:
    """One vendor.

    Attributes:
        root: put behind ``base_url`` where that is the bare origin (Ollama, TEI).
        operations: what it serves in ``openai.chat``; ``None`` is whatever the client asks for.
        responses: whether it serves the Responses API.
        paths: operations whose path differs.
        local: a server that its operator runs, so that tokens cost nothing.
    """

    base_url: str | None = None
    env_key: str | None = None
    root: str = ""
    operations: frozenset[str] | None = EVERYTHING
    responses: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)
    local: bool = False


ROWS: dict[str, Row] = {
    "openai": Row("https://api.openai.com/v1", "OPENAI_API_KEY", responses=True),
    "openai-compatible": Row(responses=True),
    "ai21": Row("https://api.ai21.com/studio/v1", "AI21_API_KEY", operations=CHAT),
    "alibaba": Row("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", operations=CHAT),
    "baseten": Row("https://inference.baseten.co/v1", "BASETEN_API_KEY", operations=CHAT),
    "cerebras": Row("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", operations=CHAT),
    "cohere": Row("https://api.cohere.ai/compatibility/v1", "CO_API_KEY", operations=CHAT),
    "databricks": Row(env_key="DATABRICKS_TOKEN", operations=CHAT),
    "deepinfra": Row("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": Row("https://api.deepseek.com", "DEEPSEEK_API_KEY", operations=CHAT, responses=True),
    "fireworks": Row("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", responses=True),
    "groq": Row("https://api.groq.com/openai/v1", "GROQ_API_KEY", responses=True),
    "huggingface": Row("https://router.huggingface.co/v1", "HF_TOKEN", responses=True),
    "llamacpp": Row("http://127.0.0.1:8080/v1", operations=CHAT | {"rerank"}, responses=True, local=True),
    "lmstudio": Row("http://127.0.0.1:1234/v1", operations=CHAT, responses=True, local=True),
    "mistral": Row("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": Row("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nvidia": Row("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    "ollama": Row(
        "http://127.0.0.1:11434", root="/v1", operations=CHAT | {"image_generation"}, responses=True, local=True
    ),
    "openrouter": Row("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", responses=True),
    "perplexity": Row("https://api.perplexity.ai", "PERPLEXITY_API_KEY", operations=CHAT, responses=True),
    "sambanova": Row("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", operations=CHAT),
    "tei": Row("http://127.0.0.1:8080", root="/v1", operations=frozenset({"embeddings"}), local=True),
    "together": Row("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "venice": Row("https://api.venice.ai/api/v1", "VENICE_API_KEY"),
    "vercel-gateway": Row("https://ai-gateway.vercel.sh/v1", "AI_GATEWAY_API_KEY", responses=True),
    "vllm": Row("http://127.0.0.1:8000/v1", responses=True, local=True),
    "voyage": Row("https://api.voyageai.com/v1", "VOYAGE_API_KEY", operations=frozenset({"embeddings", "rerank"})),
    "xai": Row("https://api.x.ai/v1", "XAI_API_KEY", responses=True),
    "zai": Row("https://api.z.ai/api/paas/v4", "ZAI_API_KEY", operations=CHAT),
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
        """OpenAI's paths below the row's root."""
        row = self.row
        if dialect == "openai.responses":
            if not row.responses:
                return None
        elif row.operations is not None and operation not in row.operations:
            return None
        found = openai_path(dialect, operation, params)
        if found is None:
            return None
        return f"{upstream.base_path}{row.root}{row.paths.get(operation, found[0])}", found[1]

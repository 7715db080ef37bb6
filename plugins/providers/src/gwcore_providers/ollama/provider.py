"""``provider: ollama``: the OpenAI and Anthropic APIs that Ollama serves, and its own where those do not suffice.

Source: https://docs.ollama.com/api. The compatible APIs ignore ``num_ctx``, ``keep_alive`` and ``think``.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from gwcore.provider import Upstream, options_of
from gwcore_providers.compatible import ROWS, Compatible
from gwcore_providers.ollama.write import DIALECT
from gwcore_providers.vendors import Address

_PATHS = {"chat": "/api/chat", "embeddings": "/api/embed"}


class OllamaOptions(BaseModel):
    """Further keys of an ``ollama`` upstream. With any of them, all chats and embeddings use Ollama's own API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_ctx: int | None = Field(
        default=None,
        ge=1,
        description="Context window in tokens. Without it Ollama uses its own default, and silently truncates longer "
        "input. With it, or `keep_alive`, chats and embeddings are translated to Ollama's own API.",
    )
    keep_alive: str | None = Field(
        default=None,
        pattern=r"^(?:-1|0|[0-9]+(?:ms|s|m|h))$",
        description="How long a model stays loaded after a call, such as `30m`; `-1` is forever. Without it, Ollama's "
        "default.",
    )


class Ollama(Compatible):
    """The row's provider, with ``/api/chat`` and ``/api/embed`` in addition."""

    Options = OllamaOptions

    def __init__(self) -> None:
        super().__init__("ollama", ROWS["ollama"])

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
        """Ollama's own API in its own dialect; with options that only it accepts, chats and embeddings must use it."""
        if operation in _PATHS:
            if dialect == DIALECT:
                return upstream.base_path + _PATHS[operation], True
            options = options_of(upstream, OllamaOptions)
            if options.num_ctx is not None or options.keep_alive is not None:
                return None
        return super().address(upstream, dialect, operation, model, params, stream=stream)

    def quirks(self, upstream: Upstream, model: str) -> frozenset[str]:
        """The row's quirks, and the options as quirks."""
        options = options_of(upstream, OllamaOptions)
        words = [f"num_ctx:{options.num_ctx}"] if options.num_ctx is not None else []
        words += [f"keep_alive:{options.keep_alive}"] if options.keep_alive is not None else []
        return super().quirks(upstream, model).union(words)

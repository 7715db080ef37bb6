"""``provider: tei``: embeddings by its OpenAI route, which reports tokens; rerank by its own.

Source: https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from gwcore.provider import Upstream, options_of
from gwcore_providers.compatible import ROWS, Compatible
from gwcore_providers.tei.lists import DIALECT
from gwcore_providers.vendors import Address

_PATHS = {"embeddings": "/embed", "rerank": "/rerank"}


class TeiOptions(BaseModel):
    """Additional options of a ``tei`` upstream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(
        default=32,
        ge=1,
        description="Maximum number of items per request; longer lists are split. Must not exceed the server's "
        "`--max-client-batch-size`.",
    )


class TextEmbeddingsInference(Compatible):
    """The row of the table of compatible vendors, plus the server's own API."""

    Options = TeiOptions

    def __init__(self) -> None:
        super().__init__("tei", ROWS["tei"])

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
        """The server's own API is at the root."""
        if dialect == DIALECT:
            path = _PATHS.get(operation)
            return None if path is None else (upstream.base_path + path, False)
        return super().address(upstream, dialect, operation, model, params, stream=stream)

    def quirks(self, upstream: Upstream, model: str) -> frozenset[str]:
        """The row's, plus the limit of items per request."""
        batch = options_of(upstream, TeiOptions).batch
        return super().quirks(upstream, model) | {f"batch:{batch}", f"rerank_batch:{batch}"}

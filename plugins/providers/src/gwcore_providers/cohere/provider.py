"""``provider: cohere``: its compatibility API for OpenAI's dialects, its own API for all others.

Source: https://docs.cohere.com/reference.
"""

from __future__ import annotations

from collections.abc import Mapping

from gwcore.provider import Upstream
from gwcore_providers.cohere.write import DIALECT
from gwcore_providers.compatible import ROWS, Particular
from gwcore_providers.vendors import Address

_PATHS = {"chat": "/v2/chat", "embeddings": "/v2/embed", "rerank": "/v2/rerank"}


class Cohere(Particular):
    """The row of the table of compatible vendors, plus ``/v2``."""

    def __init__(self) -> None:
        super().__init__("cohere", ROWS["cohere"])

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
        """Version 2 is at the root, even if ``base_url`` is that of the compatibility API."""
        root = upstream.base_path.removesuffix("/compatibility/v1")
        if dialect == DIALECT:
            path = _PATHS.get(operation)
            return None if path is None else (root + path, True)
        return super().address(upstream, dialect, operation, model, params, stream=stream)

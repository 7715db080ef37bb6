"""Gemini's ``batchEmbedContents``. Source: https://ai.google.dev/api/embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gwcore.codec import Crossing
from gwcore.lists import ListReply, ListRequest, UpstreamListCodec
from gwcore_providers.purposes import Errors, say, vector, words
from gwcore_providers.usage import gemini_usage

TASKS = {
    "query": "RETRIEVAL_QUERY", "document": "RETRIEVAL_DOCUMENT", "classification": "CLASSIFICATION", "clustering": "CLUSTERING",
    "similarity": "SEMANTIC_SIMILARITY",
}  # fmt: skip


class BatchEmbedContents(Errors):
    """One body with one request per text."""

    operation = "batch_embeddings"

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`."""
        say(request, crossing, "purpose", "dimensions")
        each: dict[str, Any] = {"model": f"models/{crossing.model}"}
        if request.purpose is not None:
            each["taskType"] = TASKS.get(request.purpose, request.purpose)
        if request.dimensions is not None:
            each["outputDimensionality"] = request.dimensions
        return {"requests": [{**each, "content": {"parts": [{"text": text}]}} for text in words(request, crossing)]}

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        found = [vector(one["values"]) for one in document["embeddings"]]
        usage = document.get("usageMetadata")
        return ListReply(found, usage=gemini_usage(usage) if isinstance(usage, dict) else None)


LISTS: Mapping[str, UpstreamListCodec] = {"embeddings": BatchEmbedContents()}

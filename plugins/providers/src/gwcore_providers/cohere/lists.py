"""Cohere's ``/v2/embed`` and ``/v2/rerank``. Source: https://docs.cohere.com/reference/{embed,rerank}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gwcore.codec import Crossing
from gwcore.lists import ListReply, ListRequest, UpstreamListCodec
from gwcore_providers.purposes import Errors, say, vector, words
from gwcore_providers.usage import cohere_usage

_PURPOSES = {
    "query": "search_query", "document": "search_document", "classification": "classification", "clustering": "clustering",
    "similarity": "clustering",
}  # fmt: skip
_TRUNCATE = {True: "END", False: "NONE"}


class Embed(Errors):
    """Models from version 3 require the purpose of a vector; the default is a document."""

    operation = "embeddings"

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`."""
        say(request, crossing, "purpose", "dimensions", "truncate")
        purpose = request.purpose or "document"
        if purpose not in _PURPOSES:
            crossing.drop(f"input_type {purpose}")
        out: dict[str, Any] = {
            "model": crossing.model,
            "texts": words(request, crossing),
            "input_type": _PURPOSES.get(purpose, "search_document"),
            "embedding_types": ["base64" if request.packed else "float"],
        }
        if request.dimensions is not None:
            out["output_dimension"] = request.dimensions
        if request.truncate is not None:
            out["truncate"] = _TRUNCATE[request.truncate]
        return out

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        kinds = document["embeddings"]
        found = kinds["base64"] if "base64" in kinds else kinds["float"]
        return ListReply([vector(one) for one in found], usage=cohere_usage(document.get("meta") or {}))


class Rerank(Errors):
    """``results``, best first; billed per search."""

    operation = "rerank"

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`."""
        say(request, crossing, "max_tokens_per_doc")
        most = request.extra.get("max_tokens_per_doc")
        extra = {"max_tokens_per_doc": most} if most is not None else {}
        top = {"top_n": min(request.top, len(request.items))} if request.top is not None else {}
        return {"model": crossing.model, "query": request.query, "documents": words(request, crossing), **top, **extra}

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        ranks = [(int(item["index"]), float(item["relevance_score"])) for item in document["results"]]
        return ListReply(ranks=ranks, usage=cohere_usage(document.get("meta") or {}), id=str(document.get("id") or ""))


LISTS: Mapping[str, UpstreamListCodec] = {"embeddings": Embed(), "rerank": Rerank()}

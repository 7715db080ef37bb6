"""Ollama's ``/api/embed``. Source: Ollama's OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gwcore.codec import Crossing
from gwcore.lists import ListReply, ListRequest, UpstreamListCodec
from gwcore_providers.purposes import Errors, say, vector, words
from gwcore_providers.quirks import value
from gwcore_providers.usage import ollama_usage


class Embed(Errors):
    """Embeddings: all vectors in one list, the token count at the top level."""

    operation = "embeddings"

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`."""
        say(request, crossing, "dimensions", "truncate")
        out: dict[str, Any] = {"model": crossing.model, "input": words(request, crossing)}
        window, keep = value(crossing.quirks, "num_ctx:"), value(crossing.quirks, "keep_alive:")
        pairs = {
            "dimensions": request.dimensions,
            "truncate": request.truncate,
            "options": {"num_ctx": int(window)} if window is not None else None,
            "keep_alive": int(keep) if keep is not None and keep.lstrip("-").isdigit() else keep,
        }
        return {**out, **{key: given for key, given in pairs.items() if given is not None}}

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        return ListReply([vector(one) for one in document["embeddings"]], usage=ollama_usage(document))


LISTS: Mapping[str, UpstreamListCodec] = {"embeddings": Embed()}

"""``/embed`` and ``/rerank`` of text-embeddings-inference, which report no tokens. Source: its OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gwcore.codec import Crossing
from gwcore.lists import ListReply, ListRequest, UpstreamListCodec
from gwcore_providers.base import UpstreamDialect
from gwcore_providers.purposes import Errors, say, vector, words

DIALECT = "tei"


class Embed(Errors):
    """The answer is a plain list of vectors."""

    operation = "embeddings"

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`."""
        say(request, crossing, "dimensions", "truncate")
        pairs = {"dimensions": request.dimensions, "truncate": request.truncate}
        return {"inputs": request.items, **{key: value for key, value in pairs.items() if value is not None}}

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        return ListReply([vector(one) for one in document])


class Rerank(Errors):
    """``index`` and ``score``, best first; always ranks all texts."""

    operation = "rerank"

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`."""
        say(request, crossing, "truncate")
        truncate = {"truncate": request.truncate} if request.truncate is not None else {}
        return {"query": request.query, "texts": words(request, crossing), **truncate}

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        return ListReply(ranks=[(int(item["index"]), float(item["score"])) for item in document])


class Tei(UpstreamDialect):
    """The server's own API."""

    name = DIALECT
    lists: Mapping[str, UpstreamListCodec] = MappingProxyType({"embeddings": Embed(), "rerank": Rerank()})
    end_mark = re.compile(rb"\]")

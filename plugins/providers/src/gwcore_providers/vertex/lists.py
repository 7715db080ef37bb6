"""Text embeddings of Vertex AI: ``predict``. Source: "Text embeddings API" of the Vertex AI reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gwcore.codec import Crossing
from gwcore.lists import ListReply, ListRequest, UpstreamListCodec
from gwcore.usage import Usage
from gwcore_providers.base import UpstreamDialect
from gwcore_providers.gemini.lists import TASKS
from gwcore_providers.purposes import Errors, say, vector, words
from gwcore_providers.usage import gemini_usage, number

DIALECT = "vertex.predict"


def by_content(model: str) -> bool:
    """Whether a model uses ``embedContent``: Gemini's except the first one, as in the google-genai SDK."""
    return model.startswith("gemini-") and model != "gemini-embedding-001"


class Predict(Errors):
    """``instances`` in, ``predictions`` out, each with its own token count; or ``embedContent``, for one text."""

    operation = "predict"

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`."""
        say(request, crossing, "purpose", "dimensions", "truncate")
        task = {"task_type": TASKS.get(request.purpose, request.purpose)} if request.purpose is not None else {}
        if by_content(crossing.model):
            return _content(request, crossing)
        pairs = {"outputDimensionality": request.dimensions, "autoTruncate": request.truncate}
        parameters = {key: value for key, value in pairs.items() if value is not None}
        out: dict[str, Any] = {"instances": [{"content": text, **task} for text in words(request, crossing)]}
        return out | ({"parameters": parameters} if parameters else {})

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        if "embedding" in document:
            usage = document.get("usageMetadata")
            return ListReply([vector(document["embedding"]["values"])], usage=gemini_usage(usage) if usage else None)
        found = [one["embeddings"] for one in document["predictions"]]
        tokens = sum(number(one.get("statistics") or {}, "token_count") for one in found)
        return ListReply([vector(one["values"]) for one in found], usage=Usage(input=tokens) if tokens else None)


def _content(request: ListRequest, crossing: Crossing) -> dict[str, Any]:
    (text,) = words(request, crossing)
    pairs = {
        "taskType": TASKS.get(request.purpose, request.purpose) if request.purpose is not None else None,
        "outputDimensionality": request.dimensions,
        "autoTruncate": request.truncate,
    }
    config = {key: value for key, value in pairs.items() if value is not None}
    return {"content": {"parts": [{"text": text}]}, **({"embedContentConfig": config} if config else {})}


class VertexPredict(UpstreamDialect):
    """Only embeddings; Gemini's chat models use the ``gemini.generate`` dialect."""

    name = DIALECT
    lists: Mapping[str, UpstreamListCodec] = MappingProxyType({"embeddings": Predict()})
    end_mark = re.compile(rb"\}")

"""Embeddings in OpenAI's form, rerank in Cohere's and Jina's, which most vendors speak; in both directions.

Sources: OpenAI's OpenAPI document; Cohere's, Jina's and Voyage's API references.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gwcore.codec import Crossing
from gwcore.errors import BadRequest, Malformed
from gwcore.lists import ListReply, ListRequest, UpstreamListCodec, Vector, packed, unpacked
from gwcore_providers.base import UpstreamDialect
from gwcore_providers.openai.chat_reply import usage_of
from gwcore_providers.purposes import Errors, count, document_text, in_order, meant, texts, vector, words
from gwcore_providers.usage import cohere_usage

DIALECT = "openai.chat"
_EMBED = frozenset(
    {
        "model",
        "input",
        "encoding_format",
        "dimensions",
        "user",
        "input_type",
        "task_type",
        "task",
        "truncate",
        "truncation",
    }
)
_RANK = frozenset(
    {"model", "query", "documents", "top_n", "top_k", "return_documents", "rank_fields", "truncate", "truncation"}
)
_PURPOSES = {"query": "query", "document": "document"}


def _flag(document: dict[str, Any]) -> bool | None:
    value = document.get("truncate", document.get("truncation"))
    return value if isinstance(value, bool) else None if value is None else value != "NONE"


class Embeddings(Errors):
    """``POST /embeddings``."""

    operation = "embeddings"

    def read_request(self, document: dict[str, Any], model: str) -> ListRequest:
        """See :meth:`gwcore.lists.ListCodec.read_request`."""
        encoding = document.get("encoding_format") or "float"
        if encoding not in {"float", "base64"}:
            raise BadRequest("encoding_format must be float or base64")
        user = document.get("user")
        purpose = document.get("input_type") or document.get("task_type") or document.get("task")
        return ListRequest(
            self.operation,
            DIALECT,
            model,
            texts(document.get("input"), "input"),
            purpose=meant(purpose),
            dimensions=count(document, "dimensions"),
            packed=encoding == "base64",
            truncate=_flag(document),
            user=user if isinstance(user, str) else None,
            extra={key: value for key, value in document.items() if key not in _EMBED and value is not None},
        )

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`. Further keys are passed on: they may be this vendor's."""
        quirks = crossing.quirks
        items: Any = words(request, crossing) if "no_tokens" in quirks else request.items
        out: dict[str, Any] = {"model": crossing.model, "input": items}
        if request.packed:
            out["encoding_format"] = "base64"
        if request.dimensions is not None:
            out["output_dimension" if "output_dimension" in quirks else "dimensions"] = request.dimensions
        if request.purpose is not None and "input_type" in quirks:
            purpose = _PURPOSES.get(request.purpose)
            if purpose is not None:
                out["input_type"] = purpose
            else:
                crossing.drop(f"input_type {request.purpose}")
        elif request.purpose is not None:
            crossing.drop("input_type")
        for name, word in (("truncate", "truncation"), ("user", "user")):
            value = getattr(request, name)
            if value is not None and f"no:{name}" in quirks:
                crossing.drop(name)
            elif value is not None:
                out[word] = value
        return {**out, **request.extra}

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        items = in_order(document["data"])
        return ListReply([vector(item["embedding"]) for item in items], usage=usage_of(document))

    def write_reply(self, reply: ListReply, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.ListCodec.write_reply`."""
        form = packed if request.packed else unpacked
        data: list[dict[str, Any]] = [
            {"object": "embedding", "index": at, "embedding": _formed(form, one)}
            for at, one in enumerate(reply.vectors)
        ]
        used = reply.usage.total_in if reply.usage is not None else 0
        usage = {"prompt_tokens": used, "total_tokens": used}
        return {"object": "list", "data": data, "model": crossing.asked, "usage": usage}


def _formed(form: Any, one: Vector) -> Any:
    try:
        return form(one)
    except ValueError:
        raise Malformed("a vector of the upstream's answer is not base64 of 32-bit floats") from None


class Rerank(Errors):
    """``POST /rerank``: ``results`` with ``index`` and ``relevance_score``, best first."""

    operation = "rerank"

    def read_request(self, document: dict[str, Any], model: str) -> ListRequest:
        """See :meth:`gwcore.lists.ListCodec.read_request`."""
        query, documents = document.get("query"), document.get("documents")
        if not isinstance(query, str) or not query:
            raise BadRequest("query must be a text")
        if not isinstance(documents, list) or not documents:
            raise BadRequest("documents must be a list, not empty")
        return ListRequest(
            self.operation,
            DIALECT,
            model,
            [document_text(one, document.get("rank_fields")) for one in documents],
            query=query,
            top=count(document, "top_n") or count(document, "top_k"),
            shown=bool(document.get("return_documents")),
            truncate=_flag(document),
            extra={key: value for key, value in document.items() if key not in _RANK and value is not None},
        )

    def write_request(self, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.UpstreamListCodec.write_request`. Replies take documents from the request, not from upstream."""
        quirks = crossing.quirks
        out: dict[str, Any] = {"model": crossing.model, "query": request.query, "documents": words(request, crossing)}
        if request.top is not None:
            out["top_k" if "top_k" in quirks else "top_n"] = min(request.top, len(request.items))
        if request.truncate is not None and "no:truncate" in quirks:
            crossing.drop("truncate")
        elif request.truncate is not None:
            out["truncation"] = request.truncate
        return {**out, **request.extra}

    def read_reply(self, document: Any) -> ListReply:
        """See :meth:`gwcore.lists.UpstreamListCodec.read_reply`."""
        items = document["results"] if "results" in document else document["data"]
        ranks = [(int(item["index"]), float(item["relevance_score"])) for item in items]
        meta = document.get("meta")
        usage = usage_of(document) or (cohere_usage(meta) if isinstance(meta, dict) else None)
        return ListReply(ranks=ranks, usage=usage, id=str(document.get("id") or ""))

    def write_reply(self, reply: ListReply, request: ListRequest, crossing: Crossing) -> dict[str, Any]:
        """See :meth:`gwcore.lists.ListCodec.write_reply`. Usage as Jina and as Cohere show it."""
        results: list[dict[str, Any]] = []
        for index, score in reply.ranks:
            shown = {"document": {"text": request.items[index]}} if request.shown else {}
            results.append({"index": index, "relevance_score": score, **shown})
        out: dict[str, Any] = {
            "id": reply.id or "rerank",
            "object": "list",
            "model": crossing.asked,
            "results": results,
        }
        if reply.usage is not None:
            out["usage"] = {"total_tokens": reply.usage.total_in, "prompt_tokens": reply.usage.total_in}
            billed = {"input_tokens": reply.usage.total_in} if reply.usage.total_in else {}
            if searches := reply.usage.fees.get("rerank"):
                billed["search_units"] = searches
            out["meta"] = {"api_version": {"version": "2"}, "billed_units": billed}
        return out


LISTS: Mapping[str, UpstreamListCodec] = {"embeddings": Embeddings(), "rerank": Rerank()}


class OpenAILists(UpstreamDialect):
    """The same, for vendors that accept fewer items per request than clients send, or use other keys."""

    name = "openai.lists"
    lists = LISTS
    end_mark = re.compile(rb"\}")

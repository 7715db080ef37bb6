"""Tools that the vendor runs: how often a request lets them run, what each run costs, and how much it may read.

The client's own tools cost only their tokens in the request. An unknown tool counts as the vendor's: a tool missing from these
lists is rejected, one listed wrongly costs money.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gwcore.prices import PriceCard

Document = Mapping[str, Any]
SEARCHED = 25_000
"""Tokens that one search adds: 1.5 times the most recorded."""
_OWN = frozenset(
    {"function", "custom", "namespace", "local_shell", "apply_patch", "computer", "functionDeclarations", "function_declarations",
     "computerUse", "tool_search"}
)  # fmt: skip
_OWN_BEGIN = ("bash_", "text_editor_", "memory_", "computer_", "tool_search_")
"""Tools that the client itself runs after the answer, and searches among the request's own tools."""
_ONCE = frozenset({"urlContext", "url_context", "fileSearch"})
"""Tools that may fill the window once, before the answer, and cost only these tokens."""
_OPTIONS = "providerOptions"
_WITHOUT_END = frozenset(
    {"mcp_servers", "plugins", "models", "fallbacks", "search_parameters", "enable_search", "connectors", _OPTIONS}
)
"""Members of a request that let a vendor read, search or use another model without limit; for the last see :func:`_brokered`."""

_TOOLS = frozenset({"tools", "web_search_options"})


@dataclass(slots=True, frozen=True)
class Kind:
    """Tools of one kind.

    Attributes:
        name: prefix of their names in a request.
        fee: the key of their price; ``None`` if a run is free.
        searches: a run adds at most :data:`SEARCHED` tokens; otherwise it may fill the window.
    """

    name: str
    fee: str | None
    searches: bool = False


_KINDS = (
    Kind("web_search", "web_search", searches=True),
    Kind("google_search", "web_search", searches=True),
    Kind("googleSearch", "web_search", searches=True),
    Kind("openrouter:web_search", "web_search", searches=True),
    Kind("x_search", "social_search", searches=True),
    Kind("file_search", "file_search", searches=True),
    Kind("code_", "code_execution", searches=True),
    Kind("codeExecution", "code_execution", searches=True),
    Kind("image_generation", "image", searches=True),
    Kind("web_fetch", None),
    Kind("mcp", None),
)


@dataclass(slots=True, frozen=True)
class Runs:
    """Upper bounds for the vendor's tools of a request.

    Attributes:
        fees: in millionths of a nano-USD.
        most: the number of runs of all tools. After each run the model reads everything again.
        fill: whether a tool may fill the window, in a run or before the first one.
    """

    fees: int = 0
    most: int = 0
    fill: bool = False

    def read(self, tokens: int, window: int | None) -> int | None:
        """Input tokens of all rounds of a request with ``tokens``; ``None`` if that depends on an unknown window."""
        if self.fill:
            return None if window is None else window * (self.most + 1)
        if not self.most:
            return tokens
        last = tokens + SEARCHED * self.most
        if window is None or last <= window:
            return (tokens + last) * (self.most + 1) // 2
        short = max(0, -(-(window - tokens) // SEARCHED))  # rounds that do not fill the window
        return short * tokens + SEARCHED * (short * (short - 1) // 2) + (self.most + 1 - short) * window


NONE = Runs()


def runs(document: Document, card: PriceCard, *, endless: bool) -> Runs | None:
    """The bounds for the vendor's tools; ``None`` if one may run without limit, has no price, or is unknown.

    Args:
        document: the request.
        card: of the model.
        endless: leave such tools out instead.
    """
    if not (endless or _WITHOUT_END.isdisjoint(document)) and (
        any(document.get(name) for name in _WITHOUT_END - {_OPTIONS}) or _brokered(document)
    ):
        return None
    if _TOOLS.isdisjoint(document):
        return NONE
    fees = most = 0
    fill = False
    for name, tool in _vendors(document):
        if name in _ONCE:
            fill = True
            continue
        kind = next((kind for kind in _KINDS if name.startswith(kind.name)), None)
        price = None if kind is None else 0 if kind.fee is None else card.highest(kind.fee, 0)
        uses = _uses(tool, document)
        if kind is None or price is None or uses is None:
            if endless or _free(card):
                continue
            return None
        fees += uses * price
        most += uses
        fill = fill or not kind.searches
    if document.get("web_search_options") is not None:
        price = card.highest("web_search", 0)  # a search model searches once per request
        if price is None and not endless:
            return None
        fees, most = fees + (price or 0), most + 1
    return Runs(fees, most, fill) if most or fill else NONE


def _brokered(document: Document) -> bool:
    """Whether Vercel's gateway may use other models."""
    options = document.get(_OPTIONS)
    broker = options.get("gateway") if isinstance(options, dict) else None
    return isinstance(broker, dict) and bool(broker.get("models"))


def _vendors(document: Document) -> Iterator[tuple[str, Document]]:
    """The vendor's tools of a request, each with the name of its kind."""
    tools = document.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        kind = tool.get("type")
        if kind is None:  # an object whose members are the tools, or a function without a type
            if "input_schema" not in tool and "function" not in tool and "parameters" not in tool:
                yield from (
                    ("fileSearch" if name == "file_search" else name, tool) for name in tool if name not in _OWN
                )
        elif not isinstance(kind, str):
            yield str(kind), tool
        elif kind not in _OWN and not kind.startswith(_OWN_BEGIN) and not _own_shell(tool):
            yield kind, tool


def _own_shell(tool: Document) -> bool:
    """Whether it is the client's own shell; the vendor's runs in a container."""
    where = tool.get("environment")
    return tool.get("type") == "shell" and (where is None or (isinstance(where, dict) and where.get("type") == "local"))


def _uses(tool: Document, document: Document) -> int | None:
    """How often it may run; ``None`` if without limit, or if a limit is not a positive integer."""
    given = tool.get("parameters")
    within = given.get("max_uses") if isinstance(given, dict) else None
    said = [most for most in (tool.get("max_uses"), within, document.get("max_tool_calls")) if most is not None]
    return max(said, default=None) if all(type(most) is int and most > 0 for most in said) else None


def _free(card: PriceCard) -> bool:
    """Whether all prices of the model are zero, so that no number of runs costs anything."""
    return bool(card.prices) and not any(
        price for sheets in card.sheets.values() for sheet in sheets for price in sheet.prices.values()
    )

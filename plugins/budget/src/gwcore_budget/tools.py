"""Tools that the vendor runs: how often a request lets them run, what each run costs, and how much it may read.

The client's own tools cost what stands in the request. A tool that nobody here knows is the vendor's: one that is not listed costs
a refusal, one that should not be listed costs money.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gwcore.prices import PriceCard

Document = Mapping[str, Any]
SEARCHED = 25_000
"""Tokens that one search brings; half as much again as the most that was recorded."""
_OWN = frozenset(
    {"function", "custom", "namespace", "local_shell", "apply_patch", "computer", "functionDeclarations", "function_declarations",
     "computerUse", "tool_search"}
)  # fmt: skip
_OWN_BEGIN = ("bash_", "text_editor_", "memory_", "computer_", "tool_search_")
"""What the client runs itself, behind the answer; and a search among the request's own tools."""
_ONCE = frozenset({"urlContext", "url_context", "fileSearch"})
"""What fills the window once, before the answer, and costs no more than the tokens."""
_OPTIONS = "providerOptions"
_WITHOUT_END = frozenset(
    {"mcp_servers", "plugins", "models", "fallbacks", "search_parameters", "enable_search", "connectors", _OPTIONS}
)
"""Members of a request that let a vendor read, search, or take another model, as often as it likes; for the last see :func:`_brokered`."""

_TOOLS = frozenset({"tools", "web_search_options"})


@dataclass(slots=True, frozen=True)
class Kind:
    """Tools of one kind.

    Attributes:
        name: how a request's name of them begins.
        fee: the key of their price; ``None`` where each run is free.
        searches: a run brings no more than :data:`SEARCHED`; else it may fill the window.
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
    """What the vendor's tools of a request may come to.

    Attributes:
        fees: in millionths of a nano-USD.
        most: how often they run, all together. After each run the model reads everything once more.
        fill: whether a run may bring as much as there is room for. ``once``: whether something does so before the first word.
    """

    fees: int = 0
    most: int = 0
    fill: bool = False
    once: bool = False

    def read(self, tokens: int, window: int | None) -> int | None:
        """Tokens of input of all rounds, of a request that has so many; ``None`` where there is no telling."""
        if self.once:
            return window
        if not self.most:
            return tokens
        if self.fill:
            return None if window is None else window * (self.most + 1)
        last = tokens + SEARCHED * self.most
        if window is None or last <= window:
            return (tokens + last) * (self.most + 1) // 2
        short = max(0, -(-(window - tokens) // SEARCHED))  # rounds that do not fill the window
        return short * tokens + SEARCHED * (short * (short - 1) // 2) + (self.most + 1 - short) * window


NONE = Runs()


def runs(document: Document, card: PriceCard, *, endless: bool) -> Runs | None:
    """Of the vendor's tools; ``None`` where one may run without end, or has no price, or nobody knows it.

    Args:
        document: the request.
        card: of the model.
        endless: leave those out.
    """
    if not (endless or _WITHOUT_END.isdisjoint(document)) and (
        any(document.get(name) for name in _WITHOUT_END - {_OPTIONS}) or _brokered(document)
    ):
        return None
    if _TOOLS.isdisjoint(document):
        return NONE
    fees = most = 0
    fill = once = False
    for name, tool in _vendors(document):
        if name in _ONCE:
            once = True
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
    return Runs(fees, most, fill, once) if most or once else NONE


def _brokered(document: Document) -> bool:
    """Whether Vercel's gateway may take other models."""
    options = document.get(_OPTIONS)
    broker = options.get("gateway") if isinstance(options, dict) else None
    return isinstance(broker, dict) and bool(broker.get("models"))


def _vendors(document: Document) -> Iterator[tuple[str, Document]]:
    """The vendor's tools of a request, each by the name of its kind."""
    tools = document.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        kind = tool.get("type")
        if kind is None:  # an object whose members are the tools, or a function without a word about it
            if "input_schema" not in tool and "function" not in tool and "parameters" not in tool:
                yield from (
                    ("fileSearch" if name == "file_search" else name, tool) for name in tool if name not in _OWN
                )
        elif not isinstance(kind, str):
            yield str(kind), tool
        elif kind not in _OWN and not kind.startswith(_OWN_BEGIN) and not _own_shell(tool):
            yield kind, tool


def _own_shell(tool: Document) -> bool:
    """A shell of the client's; the vendor's stands in a container."""
    where = tool.get("environment")
    return tool.get("type") == "shell" and (where is None or (isinstance(where, dict) and where.get("type") == "local"))


def _uses(tool: Document, document: Document) -> int | None:
    """How often it may run; ``None`` without end. What is no number of runs says nothing."""
    given = tool.get("parameters")
    within = given.get("max_uses") if isinstance(given, dict) else None
    said = [most for most in (tool.get("max_uses"), within, document.get("max_tool_calls")) if most is not None]
    return max(said, default=None) if all(type(most) is int and most > 0 for most in said) else None


def _free(card: PriceCard) -> bool:
    """Whether nothing that the model does costs anything, however often."""
    return bool(card.prices) and not any(
        price for sheets in card.sheets.values() for sheet in sheets for price in sheet.prices.values()
    )

"""The worst case: an upper bound of what an attempt can cost, over every price that may apply.

Input is bounded by bytes (a token covers at least one), output by ``max_tokens``, which is sent with the request: so
the upstream enforces the bound. ``None`` if nothing bounds it: no price, or a tool that may run without limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import orjson

from gwcore.call import Attempt, Call
from gwcore.errors import BadRequest
from gwcore.knobs import MAX_TOKENS, Places, largest
from gwcore.prices import MILLION, STACK, STANDARD, PriceCard
from gwcore.units import DOLLAR
from gwcore.usage import IN, OUT
from gwcore.wire.form import count_files, read_field
from gwcore.wire.splice import has_escaped_word
from gwcore_budget.references import outline, pictures, unseen
from gwcore_budget.tools import NONE, Runs, runs

MESSAGE, TOOLS, FRAME = 8, 1_024, 64
"""Tokens that vendors add: per message, per request with tools, per request."""
IMAGE = 50_000
"""Tokens of one picture given by URL: the most expensive documented tiling."""
IMAGE_OUT = 16_384
"""Tokens of one generated picture."""
PROMPT = 2 * IMAGE
"""Tokens of the text fields of a form that sends pictures: https://platform.openai.com/docs/api-reference/images/createEdit takes 32,000 characters."""
CHUNK = 500
"""Tokens, query included, up to which a search counts a document as one. Source: https://cohere.com/pricing."""
LONG = 1_000_000
"""Tokens of the longer window that some models have on request."""
_LONGER = "context-1m"
LEAST_OUTPUT = 256
"""Tokens of output below which a clamped answer would be useless."""
MOST = 1_000_000 * DOLLAR
"""Nano-USD: the most for one attempt; the ledger's integers end at 2 to the 63."""
Prices = Mapping[str, int]
"""As :meth:`gwcore.prices.PriceCard.dearest` returns them."""
_FREE = frozenset(
    [
        "models",
        "count_tokens",
        "files",
        "file_content",
        "batch_cancel",
        "batch_results",
        "responses",
        "response_cancel",
        "response_items",
    ]
)
_ASKED = frozenset({"GET", "DELETE"})
_KNOBS = frozenset(
    {"model", "messages", "stream", "max_tokens", "max_completion_tokens", "n", "temperature", "top_p", "seed", "user"}
)
_WORDS = frozenset({"role", "content", "name"})
"""Members of a document, and of its messages, that hold only text and numbers: see :func:`_plain`. A missing one costs a search;
a wrong one costs money."""
_written: Callable[[Prices], Sequence[int]] = itemgetter(*OUT)
_CHAT = frozenset({"chat", "completions", "compact"})
_INPUT_ONLY = frozenset({"embeddings", "batch_embeddings"})
_IMAGES = frozenset({"image_generation", "image_edit", "image_variation"})
_DEARER = frozenset({"service_tier", "serviceTier", "speed"})
_TIERS = frozenset({"priority", "fast"})
"""Service tiers that cost more than the standard one; above, the members with which a request selects one."""
_ONLINE = ":online"
"""Suffix of a model's name that makes OpenRouter search the web."""


@dataclass(slots=True, init=False)
class Bound:
    """What to hold. Amounts in millionths of a nano-USD, except ``amount``.

    Attributes:
        fixed: for input and fees. ``per_token``: for one token in every answer.
        tokens: length of the longest answer; lowered if it is clamped.
        said: whether the request, or the vendor's own maximum, limits answers to ``tokens``; if not, the attempt must,
            at :func:`cap`. ``None`` if answers have no length.
        amount: nano-USD of the worst case.
    """

    fixed: int
    per_token: int
    tokens: int
    said: bool | None
    amount: int

    def __init__(self, fixed: int, per_token: int = 0, tokens: int = 0, said: bool | None = None) -> None:
        self.fixed = fixed
        self.per_token = per_token
        self.tokens = tokens
        self.said = said
        self.amount = -(-(fixed + per_token * tokens) // MILLION)

    @property
    def least(self) -> int:
        """Nano-USD for the shortest answer that is still useful."""
        return -(-(self.fixed + self.per_token * min(self.tokens, LEAST_OUTPUT)) // MILLION)

    def fitting(self, amount: int) -> int:
        """Tokens of the longest answer that ``amount`` nano-USD pays for."""
        if not self.per_token:
            return self.tokens
        return min(self.tokens, (amount * MILLION - self.fixed) // self.per_token)


NOTHING = Bound(0)
Scale = tuple[int, int]
"""A correction factor, as a fraction, for a model whose worst cases have been too low."""
AS_IT_IS: Scale = (1, 1)


def scaled(amount: int, scale: Scale) -> int:
    """``amount`` times ``scale``, rounded up."""
    return amount if scale is AS_IT_IS else -(-amount * scale[0] // scale[1])


def cap(attempt: Attempt, card: PriceCard) -> Places:
    """Where the attempt's request limits the length of an answer."""
    call = attempt.call
    return call.dialect.knobs(call.operation, call.document or {}, card.model).get("max_tokens", MAX_TOKENS)


def bound(attempt: Attempt, card: PriceCard | None, assumed: int, *, endless: bool = False) -> Bound | None:
    """The worst case of an attempt; ``None`` if nothing bounds it. Raises ``BadRequest`` if it exceeds :data:`MOST`.

    Args:
        attempt: not yet sent.
        card: of its target.
        assumed: tokens of the longest answer if neither the client nor the card limits it.
        endless: leave out costs without a bound or a price, such as of unlimited tools: a partial bound.
    """
    call = attempt.call
    operation = call.operation
    if operation in _FREE or call.method in _ASKED or (operation == "moderations" and card is None):
        return NOTHING
    if card is None:
        return None
    document = call.document or {}
    if operation in _CHAT and not endless and _boundless(attempt, card, document):
        return None
    if operation in _CHAT and not call.edited and _plain(call.raw, document):
        found = _words(call, card, document, assumed)
    else:
        found = _searched(call, card, document, assumed, endless=endless)
    if found is not None and found.amount > MOST:
        raise BadRequest(
            "the worst case of this request is over 1,000,000 USD: lower max_tokens or the number of answers"
        )
    return found


def _boundless(attempt: Attempt, card: PriceCard, document: Mapping[str, Any]) -> bool:
    """Whether an attempt's length does not bound its cost: the model searches on its own, or the service tier has no prices."""
    if attempt.target.model.endswith(_ONLINE) or ("citation" in card.prices and card.highest("citation", 0)):
        return True
    if _DEARER.isdisjoint(document):
        return False
    asked = [document[name] for name in _DEARER if name in document]
    return any(isinstance(tier, str) and tier in _TIERS and tier not in card.sheets for tier in asked)


def _plain(raw: bytes, document: Mapping[str, Any]) -> bool:
    """Whether the request is text messages and nothing else: no picture, file, tool or cache mark.

    Every bracket of ``raw`` is then one of theirs, so nothing hides behind a duplicate name. A text may refer to a file
    (``fileid://``), also in escaped letters: such a request is not plain.
    """
    messages = document.get("messages")
    if not isinstance(messages, list) or not _KNOBS.issuperset(document):
        return False
    for message in messages:
        if not (isinstance(message, dict) and _WORDS.issuperset(message)):
            return False
    at = -1  # find() one by one is faster than counting or splitting, which look at every byte
    for _ in range(2 + len(messages)):
        at = raw.find(b"{", at + 1)
    if at >= 0 or raw.find(b"[", raw.find(b"[") + 1) >= 0:
        return False
    return raw.find(b'"file') < 0 and raw.find(b'"video') < 0 and raw.find(b"\\u00") < 0


def sent(call: Call) -> tuple[int, str]:
    r"""Size and outline of what the upstream reads: the client's bytes, or the document as a plugin has changed it.

    Escapes of plain letters are decoded: ``"\u0069mage_url"`` is a picture, too.
    """
    raw = call.raw
    found = b"" if call.edited else outline(raw)
    if call.document is not None and (call.edited or has_escaped_word(found)):
        raw = orjson.dumps(call.document)
        found = outline(raw)
    return len(raw), found.decode("latin-1")  # a character per byte; `in` is faster on str


def _words(call: Call, card: PriceCard, document: Mapping[str, Any], assumed: int) -> Bound | None:
    """The bound of a :func:`_plain` request: there is nothing to search for."""
    tokens = _within(len(call.raw) + MESSAGE * len(document["messages"]) + FRAME, card)
    prices = card.dearest(tokens)
    price = prices.get("input")
    return None if price is None else _answers(call, card, prices, tokens * price + prices.get("request", 0), assumed)


def _searched(call: Call, card: PriceCard, document: Mapping[str, Any], assumed: int, *, endless: bool) -> Bound | None:
    if call.document is None:
        return _form(call, card)
    size, text = sent(call)
    chat = call.operation in _CHAT
    ran = runs(document, card, endless=endless) if chat else NONE
    elsewhere, images = unseen(document, text), pictures(document, text)
    tokens = None if ran is None else _input_tokens(call, size, text, card, ran, unseen=elsewhere, images=images)
    if ran is None or tokens is None:
        return None
    rounds = 2 if '"compact' in text and document.get("context_management") else 1  # it is first summarized
    tokens *= rounds
    prices = card.dearest(tokens)
    fixed = _input_price(text, prices, tokens, unseen=elsewhere, images=images)
    fee = prices.get("request", 0)
    if chat:
        return None if fixed is None else _answers(call, card, prices, fixed + ran.fees + fee, assumed, rounds=rounds)
    special = _SPECIAL.get(call.operation)
    if special is None:
        return None if fixed is None or call.operation not in _INPUT_ONLY else Bound(fixed + fee)
    found = special(call, card, tokens)
    return None if found is None else Bound(found + (fixed or 0) + fee)


def _form(call: Call, card: PriceCard) -> Bound | None:
    """The bound of a form. The bytes of its file cannot be searched, so all input is at the highest input price."""
    special = _SPECIAL.get(call.operation)
    if special is None:
        return None
    tokens = len(call.raw) + FRAME
    if call.operation in _IMAGES:
        tokens = min(tokens, PROMPT + IMAGE * count_files(call.raw, call.header(b"content-type") or b""))
    tokens = _within(tokens, card)
    prices = card.dearest(tokens)
    read = max((prices[bucket] for bucket in IN if bucket in prices), default=0)
    found = special(call, card, tokens)
    return None if found is None else Bound(tokens * read + found + prices.get("request", 0))


def _input_tokens(
    call: Call, size: int, text: str, card: PriceCard, ran: Runs, *, unseen: bool, images: int
) -> int | None:
    window = card.context_window
    if window is not None and window < LONG and _long(call, text):
        window = LONG
    if unseen:
        return None if window is None else ran.read(window, window)
    document = call.document or {}
    messages = document.get("messages") or document.get("contents") or document.get("input") or ()
    count = len(messages) if isinstance(messages, list) else 1
    tokens = size + MESSAGE * count + FRAME + IMAGE * images
    if "tools" in document:
        tokens += TOOLS
    return ran.read(_within(tokens, card), window)


def _within(tokens: int, card: PriceCard) -> int:
    """``tokens``, or the window if it is smaller: an upstream reads no more.

    A catalogue may say 1,000,000 for 1,048,576. A price beyond the window means that longer windows exist: no limit.
    """
    window = card.context_window
    if window is None or card.sheets[STANDARD][-1].above >= window:
        return tokens
    return min(tokens, window if card.source == STACK else window + window // 20)


def _long(call: Call, text: str) -> bool:
    """Whether the request asks Anthropic for the longer window."""
    return _LONGER in text or _LONGER.encode() in (call.header(b"anthropic-beta") or b"")


def _input_price(text: str, prices: Prices, tokens: int, *, unseen: bool, images: int) -> int | None:
    price = prices.get("input")
    if price is None:
        return None
    buckets = ["cache_write_5m", "cache_write_1h"] if "cach" in text or "Cach" in text else []
    if unseen or images:
        buckets.append("image_in")
    if unseen or "audio" in text:  # a video has sound, and a file known only by its id may have, too
        buckets.append("audio_in")
    for bucket in buckets:
        price = max(price, prices.get(bucket, 0))
    return tokens * price


def _answers(call: Call, card: PriceCard, prices: Prices, fixed: int, assumed: int, *, rounds: int = 1) -> Bound | None:
    # if text output has a price, every kind of output has one
    priced = _written(prices) if "output" in prices else [prices[bucket] for bucket in card.prices.keys() & OUT]
    if not priced:
        return None
    wanted, answers = call.wanted()
    choices = (answers or 1) * rounds
    if call.operation == "completions":
        choices *= _prompts(call.document or {})
    if (said := (call.document or {}).get("prediction")) is not None:
        # unused tokens of a prediction are billed as output, in addition to the answer
        fixed += choices * max(priced) * len(orjson.dumps(said))
    most = card.max_output
    if wanted is None:
        length = assumed if most is None else most
    else:
        length = wanted if most is None or wanted < most else most
    # only input reaches the more expensive long-context prices, never output
    return Bound(fixed, choices * max(priced), length, wanted is not None or most is not None)


def _prompts(document: Mapping[str, Any]) -> int:
    """Number of prompts: text completions answer each of a list; a list of tokens is one prompt."""
    prompt = document.get("prompt")
    if not isinstance(prompt, list):
        return 1
    return max(1, sum(not isinstance(one, int) for one in prompt))


def _rerank(call: Call, card: PriceCard, tokens: int) -> int | None:
    """Priced per token, or per search: one per hundred documents, in each request that the documents are split into."""
    each, read = card.highest("rerank", tokens), card.highest("input", tokens)
    if each is None and read is None:
        return None
    document = call.document or {}
    documents, query = document.get("documents"), document.get("query")
    count = len(documents) if isinstance(documents, list) else 1
    # per token, the query is read with every document; per search, a long document counts as several
    again = count * len(query.encode("utf-8", "surrogatepass")) if isinstance(query, str) else 0
    searches = 1 + (count + (tokens + again) // CHUNK) // 100
    return again * (read or 0) + searches * (each or 0)


def _moderation(_call: Call, card: PriceCard, tokens: int) -> int:
    """Free at OpenAI; priced per token or per request at other vendors."""
    return card.highest("moderation", tokens) or 0


def _said(call: Call, name: str) -> int | None:
    """The number in a field of a form; ``None`` if absent or empty.

    Raises ``BadRequest`` for other text: with another charset, a parser might read it as a number.
    """
    field = read_field(call.raw, call.header(b"content-type") or b"", name.encode())
    if field is None or not field.strip():
        return None
    count = largest({name: field.decode("utf-8", "replace")}, ((name,),))
    if count is None:
        raise BadRequest(f"the form field {name!r} must be a number")
    return count


def _pictures(call: Call, card: PriceCard, tokens: int) -> int | None:
    count = (_said(call, "n") if call.document is None else largest(call.document, (("n",),))) or 1
    each, by_token = card.highest("image", tokens), card.highest("image_out", tokens)
    if each is None and by_token is None:
        return None
    return count * max(each or 0, IMAGE_OUT * (by_token or 0))


def _speech(call: Call, card: PriceCard, tokens: int) -> int | None:
    each, by_token = card.highest("characters", tokens), card.highest("audio_out", tokens)
    if each is None and by_token is None:
        return None
    # the speech of one letter takes well below four audio tokens
    return max(len(call.raw) * (each or 0), 4 * len(call.raw) * (by_token or 0))


def _transcript(call: Call, card: PriceCard, tokens: int) -> int | None:
    seconds = len(call.raw) // 500 + 1  # speech below 4 kbit/s is unintelligible
    each, output = card.highest("audio_seconds", tokens), card.highest("output", tokens)
    if each is None and output is None:
        return None
    written = (card.max_output or 16_384) * (output or 0)
    return seconds * (each or 0) + written


_SPECIAL: Mapping[str, Callable[[Call, PriceCard, int], int | None]] = {
    **dict.fromkeys(_IMAGES, _pictures),
    "moderations": _moderation,
    "rerank": _rerank,
    "speech": _speech,
    "transcription": _transcript,
    "translation": _transcript,
}

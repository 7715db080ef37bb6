"""What the end of an attempt implies for its budget hold, for retries and for the health of its deployment.

One shared table: routers retry by ``retry`` and judge deployments by ``health``, ledgers settle by ``money``.
:func:`ending` finds the row for an error. Vendors express the same error in many ways, which are data too:
:data:`SIGNS`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import orjson

from gwcore.errors import (
    Abandoned,
    BudgetExceeded,
    BudgetReserved,
    ClientError,
    Exhausted,
    Forbidden,
    LimitError,
    NotServed,
    Refused,
    Untranslatable,
    UpstreamError,
    UpstreamTimeout,
)


@dataclass(slots=True, frozen=True)
class Ending:
    """One row.

    Attributes:
        kind: its name.
        money: ``void``: known not to be billed; ``reap``: unknown, so the whole hold is charged until the cost is
            known.
        retry: ``again`` the same deployment or another; ``elsewhere`` another deployment or credential only; ``larger``,
            ``permissive``, ``cheaper`` only what is configured for that case; ``no``.
        health: ``failure`` counts against the deployment; ``credential`` closes the credential for a while;
            ``cooldown`` closes the deployment until the time it stated; ``none``.
    """

    kind: str
    money: Literal["void", "reap"]
    retry: Literal["again", "elsewhere", "larger", "permissive", "cheaper", "no"]
    health: Literal["failure", "credential", "cooldown", "none"]


TABLE = {
    row.kind: row
    for row in (
        # nothing was sent
        Ending("unreachable", "void", "again", "failure"),
        # nothing was sent, and nobody was asked: this process may open no more connections
        Ending("exhausted", "void", "again", "none"),
        # sent, and no answer of which a byte was shown: it may have been executed
        Ending("timeout", "reap", "again", "failure"),
        Ending("broken", "reap", "again", "failure"),
        # sent, part of the answer was shown: another try would repeat it
        Ending("committed", "reap", "no", "failure"),
        # the upstream refused
        Ending("unavailable", "void", "again", "failure"),  # 408, 5xx
        Ending("conflict", "void", "again", "none"),  # 409, 425
        Ending("rate_limited", "void", "again", "cooldown"),  # 429
        Ending("quota", "void", "elsewhere", "credential"),  # 402, or whatever says that the account is empty
        Ending("credential", "void", "elsewhere", "credential"),  # 401
        # 403: this model, this content, this region … A client can provoke it, so one alone may close nothing
        Ending("permission", "void", "elsewhere", "failure"),
        Ending("context_window", "void", "larger", "none"),
        Ending("content_policy", "void", "permissive", "none"),
        Ending("request", "void", "no", "none"),  # 400, 404, 413, 422 and all other 4xx
        # the gateway refused this target; nothing was sent
        Ending("unserved", "void", "elsewhere", "none"),
        Ending("denied", "void", "elsewhere", "none"),
        Ending("budget", "void", "cheaper", "none"),
        # what no other target could mend
        Ending("left", "reap", "no", "none"),
        Ending("internal", "reap", "no", "none"),
    )
}


@dataclass(slots=True, frozen=True)
class Sign:
    """How an upstream expresses it. All conditions given must hold: a status, one of the codes or the text.

    Attributes:
        codes: values of ``code``, ``type``, ``status`` or ``reason`` in the error object and the objects below it.
        text: part of a message. Messages quote client input, so a text that closes a credential must be at the start.
    """

    kind: str
    statuses: frozenset[int]
    codes: frozenset[str] = frozenset()
    text: re.Pattern[str] | None = None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BAD = frozenset({400, 413, 422})
# The first that fits wins. Codes first: they are contract, texts are not.
SIGNS = (
    Sign("context_window", _BAD, _words("context_length_exceeded exceed_context_size_error context_window_exceeded")),
    Sign(
        "content_policy",
        frozenset({400, 403, 422}),
        _words(
            "content_filter content_policy_violation moderation_blocked ResponsibleAIPolicyViolation invalid_prompt "
            "image_generation_user_error content_filtered PROHIBITED_CONTENT"
        ),
    ),
    Sign(
        "quota",
        frozenset({400, 402, 403, 429}),
        _words("insufficient_quota billing_hard_limit_reached billing_error billing_not_active insufficient_balance"),
    ),
    Sign("credential", frozenset({400}), _words("API_KEY_INVALID invalid_api_key API_KEY_SERVICE_BLOCKED")),
    Sign(
        "context_window",
        _BAD,
        text=re.compile(
            r"maximum context length|context (?:window|length|size)|prompt is too long|input is too long|"
            r"input length and .?max_tokens.? exceed|input token count .{0,40}exceeds the maximum|"
            r"too many (?:input )?tokens|reduce the length of the (?:messages|prompt)",
            re.IGNORECASE,
        ),
    ),
    Sign(
        "content_policy",
        frozenset({400, 403, 422}),
        text=re.compile(
            r"content (?:filter|management|policy)|safety system|violat\w+ .{0,30}polic|requires moderation|was flagged",
            re.IGNORECASE,
        ),
    ),
    Sign("quota", frozenset({400, 403}), text=re.compile(r"\Ayour credit balance is too low|\Ayou exceeded your current quota", re.IGNORECASE)),
)  # fmt: skip
_CODES = ("code", "type", "status", "reason")
_READ = 64 * 1024
_MESSAGE = 4096
_SECONDS = re.compile(r"\d{1,12}(?:\.\d+)?")
_DELAY = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)s")
LONGEST_WAIT = 24 * 3600.0
"""Seconds; caps the wait that an upstream asks for."""


def ending(error: BaseException, *, committed: bool = False) -> Ending:
    """The row of what ended an attempt; ``committed`` if part of its answer has left."""
    if isinstance(error, UpstreamError) and committed:
        return TABLE["committed"]
    if isinstance(error, Refused):
        return TABLE[_refusal(error)]
    if isinstance(error, Exhausted):
        return TABLE["exhausted"]
    if isinstance(error, UpstreamError) and not error.sent:
        return TABLE["unreachable"]
    return TABLE[next((kind for type_, kind in _BY_TYPE if isinstance(error, type_)), "internal")]


_BY_TYPE: tuple[tuple[type[BaseException], str], ...] = (
    (UpstreamTimeout, "timeout"),
    (UpstreamError, "broken"),
    (BudgetExceeded, "budget"),
    (BudgetReserved, "budget"),
    (Untranslatable, "unserved"),
    (NotServed, "unserved"),
    (Forbidden, "denied"),
    (LimitError, "denied"),
    (ClientError, "request"),
    (Abandoned, "left"),
    (asyncio.CancelledError, "left"),
)


def _refusal(error: Refused) -> str:
    status = error.status
    if status >= 500 or status == 408:
        return "unavailable"
    codes, messages = _said(error.body)
    for sign in SIGNS:
        if status in sign.statuses and (
            (sign.codes and not sign.codes.isdisjoint(codes))
            or (sign.text is not None and any(map(sign.text.search, messages)))
        ):
            return sign.kind
    return _BY_STATUS.get(status, "request")


_BY_STATUS = {401: "credential", 402: "quota", 403: "permission", 409: "conflict", 425: "conflict", 429: "rate_limited"}


def unrouted(status: int, body: bytes) -> bool:
    """Whether not an API answered, but a server that has no such address: without an error, or as web frameworks do."""
    if status not in (404, 405):
        return False
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return True
    return document in ({"detail": "Not Found"}, {"detail": "Method Not Allowed"})


def _said(body: bytes) -> tuple[set[str], list[str]]:
    """Codes and messages of an error body in any dialect; none if it is not JSON."""
    try:
        document = orjson.loads(body[:_READ])
    except orjson.JSONDecodeError:
        return set(), []
    codes: set[str] = set()
    messages: list[str] = []
    for part in _objects(document, 4):
        codes.update(value for key in _CODES if isinstance(value := part.get(key), str))
        message = part.get("message")
        if isinstance(message, str):
            messages.append(message[:_MESSAGE])
    return codes, messages


def told_after(text: str, wall: Callable[[], float]) -> float | None:
    """Seconds to wait by a ``retry-after``: a number or an HTTP date, which may have passed; ``wall`` is the time of day."""
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year or an offset that fits no machine word
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - wall()


def told_wait(body: bytes) -> float | None:
    """Seconds to wait by an error's body: a ``RetryInfo`` among its details, the equivalent of ``retry-after``."""
    if b"retryDelay" not in body:
        return None
    try:
        document = orjson.loads(body[:_READ])
    except orjson.JSONDecodeError:
        return None
    delay = next((part["retryDelay"] for part in _objects(document, 4) if "retryDelay" in part), None)
    told = _DELAY.fullmatch(delay) if isinstance(delay, str) else None
    return min(float(told[1]), LONGEST_WAIT) if told else None


def _objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The objects inside an error: its envelope, inner errors, details."""
    if isinstance(value, dict):
        yield value
        below = [value.get(key) for key in ("error", "innererror", "inner_error", "details", "detail", "errors")]
    else:
        below = value[:8] if isinstance(value, list) else []
    if depth:
        for child in below:
            yield from _objects(child, depth - 1)

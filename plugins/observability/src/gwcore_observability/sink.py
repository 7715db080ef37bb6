"""The sink interface: a sink encodes and sends records. Everything else - queue, disk, retries - is the outbox's.

A sink is one file: a class with these three methods, and a plugin that creates it (:mod:`gwcore_observability.plugin`).
Separate distributions can provide sinks, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gwcore.errors import StoreUnavailable, UpstreamError
from gwcore.outcomes import told_after
from gwcore.wire.transport import Headers, Origin, Request, Timeouts, Transport
from gwcore_observability.content import Content
from gwcore_observability.record import Record
from gwcore_observability.spill import Item


@dataclass(slots=True, frozen=True)
class Delivery:
    """One request to a sink, which succeeds or fails as a whole or item by item.

    Attributes:
        items: contained items, in order.
        body, headers, target: of an HTTP request; sinks with another protocol may leave them empty.
    """

    items: Sequence[Item]
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    target: str = ""


@dataclass(slots=True, frozen=True)
class Verdict:
    """Result of a delivery.

    Attributes:
        kind: ``accepted``, except for items in ``refused`` and ``again``; ``later``: the sink is failing, retry;
            ``split``: too large, try halves; ``refused``: some items are permanently rejected, try halves to find them.
        reason: for the log and the dead letter; no content, no secret.
        after: seconds to wait, as demanded by the sink.
        refused: ids of permanently rejected items, with the reason.
        again: ids of items to send again.
    """

    kind: Literal["accepted", "later", "split", "refused"]
    reason: str = ""
    after: float | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    again: frozenset[str] = frozenset()


ACCEPTED = Verdict("accepted")


class Sink(Protocol):
    """A destination of records. Called from one task; only :meth:`send` runs concurrently."""

    def encode(self, record: Record, content: Content | None) -> Item | None:
        """Encode the record for this sink; ``None`` to skip it.

        Called once per record, on the event loop: at most some hundred microseconds, no I/O. ``content`` is present if
        settings and policies allow it, and already redacted. The bytes may go to disk and be sent by a later release.
        The same record must give the same ``Item.id``: use :func:`gwcore_observability.ids.event_id`.
        """
        ...

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """Pack a batch into one request or several; every item in exactly one of them."""
        ...

    async def send(self, delivery: Delivery) -> Verdict:
        """Send it. ``UpstreamError``, ``StoreUnavailable``, ``OSError`` and ``TimeoutError`` mean ``later``.

        Any other exception means ``refused``.
        """
        ...


# without 401, 403, 404: the address or the credential is wrong, so the record waits until an operator fixes that
_WRONG = frozenset({400, 405, 406, 409, 410, 411, 414, 415, 422, 431})


def judge(status: int, headers: Headers) -> Verdict:
    """The verdict for an HTTP status, regardless of the body."""
    if status < 300:
        return ACCEPTED
    if status == 413:
        return Verdict("split", "http_413")
    if status in _WRONG:
        return Verdict("refused", f"http_{status}")
    return Verdict("later", f"http_{status}", _retry_after(headers))


def _retry_after(headers: Headers) -> float | None:
    for name, value in headers:
        if name == b"retry-after":
            return told_after(value.decode("latin-1").strip(), time.time)
    return None


class HttpSender:
    """POSTs deliveries to one origin. Sinks may inherit it, and override :meth:`verdict` to interpret responses."""

    ANSWER = 1 << 20
    """Bytes of a response after which reading stops."""

    def __init__(self, transport: Transport, url: str, headers: Headers, timeout: float) -> None:
        """``url`` has no credentials; these are in ``headers``. Raises ``ValueError`` if it is no http(s) URL."""
        self._transport = transport
        self._origin = Origin.of(url)
        self._path = "/" + url.split("://", 1)[1].partition("/")[2]
        self._headers = headers
        self._timeouts = Timeouts(connect=min(5.0, timeout), first_byte=timeout, idle=timeout, total=timeout)

    async def send(self, delivery: Delivery) -> Verdict:
        """One POST."""
        headers = [*self._headers, *delivery.headers]
        request = Request(
            "POST", self._origin, delivery.target or self._path, headers, delivery.body, timeouts=self._timeouts
        )
        response = await self._transport.send(request)
        try:
            parts: list[bytes] = []
            size = 0
            while size < self.ANSWER and (chunk := await response.read()):
                parts.append(chunk)
                size += len(chunk)
        finally:
            response.close()
        return self.verdict(delivery, response.status, response.headers, b"".join(parts))

    def verdict(self, delivery: Delivery, status: int, headers: Headers, body: bytes) -> Verdict:  # noqa: ARG002 - for overriding
        """Interpret the response."""
        return judge(status, headers)


def later(error: BaseException) -> Verdict | None:
    """The verdict for an error while sending; ``None`` if it is a bug of the sink."""
    if isinstance(error, UpstreamError | StoreUnavailable):
        return Verdict("later", error.code)
    if isinstance(error, OSError | TimeoutError):
        return Verdict("later", type(error).__name__)
    return None

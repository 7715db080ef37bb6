"""What a sink is: it says how records look to it, and sends them. All else - queue, disk, retries - is the outbox's.

A sink is one file: a class with these three methods, and a plugin that names it (:mod:`gwcore_observability.plugin`).
A distribution of its own can bring one, too.
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
    """One request: what is sent at once, and succeeds or fails as a whole or item by item.

    Attributes:
        items: those in it, in order.
        body, headers, target: of an HTTP request; a sink that speaks something else may leave them empty.
    """

    items: Sequence[Item]
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    target: str = ""


@dataclass(slots=True, frozen=True)
class Verdict:
    """What became of a delivery.

    Attributes:
        kind: ``accepted``, but for what ``refused`` names; ``later``: the sink is not well, try again; ``split``: too large,
            try halves; ``refused``: something in it is wrong for good, and halves tell what.
        reason: for the log and the dead letter; no content, no secret.
        after: seconds that the sink asked to be left alone.
        refused: ids of items that were not accepted and never will be, with the reason.
        again: ids of items that shall be sent again.
    """

    kind: Literal["accepted", "later", "split", "refused"]
    reason: str = ""
    after: float | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    again: frozenset[str] = frozenset()


ACCEPTED = Verdict("accepted")


class Sink(Protocol):
    """Where records go. Called from one task, never concurrently but for :meth:`send`."""

    def encode(self, record: Record, content: Content | None) -> Item | None:
        """The record as this sink will have it; ``None`` for one that it does not want.

        Called once per record, between other work of the loop: at most some hundred microseconds, no I/O. ``content`` is
        there where settings and policies allow it, and already redacted. The bytes may go to disk and be sent by a later
        release. The same record gives the same ``Item.id``: use :func:`gwcore_observability.ids.event_id`.
        """
        ...

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """A batch as one request or several; every item in exactly one of them."""
        ...

    async def send(self, delivery: Delivery) -> Verdict:
        """Send it. An ``UpstreamError``, ``StoreUnavailable``, ``OSError`` or ``TimeoutError`` means ``later``; anything else ``refused``."""
        ...


# 401, 403, 404: the address or the credential is wrong, not the record: it waits until an operator mends that
_WRONG = frozenset({400, 405, 406, 409, 410, 411, 414, 415, 422, 431})


def judge(status: int, headers: Headers) -> Verdict:
    """What an HTTP status says of a delivery, where the body has nothing to add."""
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
    """POSTs deliveries to one origin. A sink may inherit it, and override :meth:`verdict` for what answers say."""

    ANSWER = 1 << 20
    """Bytes of an answer that are read."""

    def __init__(self, transport: Transport, url: str, headers: Headers, timeout: float) -> None:
        """``url`` without credentials; ``headers`` hold them. Raises ``ValueError`` for what is no http(s) URL."""
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
        """What the answer says."""
        return judge(status, headers)


def later(error: BaseException) -> Verdict | None:
    """The verdict of a failure to send; ``None`` for one that is the sink's own bug."""
    if isinstance(error, UpstreamError | StoreUnavailable):
        return Verdict("later", error.code)
    if isinstance(error, OSError | TimeoutError):
        return Verdict("later", type(error).__name__)
    return None

"""A list call to an upstream that takes fewer items at a time or speaks another dialect: many requests, one reply.

Batches run in parallel, with bounded concurrency. The first failure fails the call, once, and no further batch is sent;
those in flight are read to their ends, since they are billed and their usage must be counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from gwcore.call import Attempt, Call, Target
from gwcore.codec import Complaint, Crossing
from gwcore.dialect import Dialect
from gwcore.errors import MISSHAPEN, GatewayError, Malformed
from gwcore.lists import ListCodec, ListReply, ListRequest, UpstreamListCodec, cut, merged
from gwcore.outcomes import ending
from gwcore.relay import DROPPED, read_whole
from gwcore.translate import UNREADABLE, Way, wrong_type
from gwcore.usage import Usage, added
from gwcore.wire.transport import Request, Response

PARALLEL: Final = 4
"""Maximum concurrent requests of one call to an upstream."""


@dataclass(slots=True)
class Batches(Way):
    """One attempt's translation in both directions.

    Attributes:
        codec: of the upstream's dialect.
        request: the whole request. ``parts``: its batches. ``bodies``: the batches' bodies.
    """

    codec: UpstreamListCodec
    request: ListRequest
    parts: list[ListRequest]
    bodies: list[bytes]
    used: list[Usage] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """Of the first request."""
        return self.bodies[0]

    def complaint(self, status: int, body: bytes) -> Complaint:
        """The upstream's error, in words."""
        return self.codec.read_error(status, body)

    def read(self, at: int, body: bytes) -> ListReply:
        """Parse the answer to one batch and count its usage. Raises ``Malformed``."""
        try:
            reply = self.codec.read_reply(orjson.loads(body))
        except orjson.JSONDecodeError:
            raise Malformed("the upstream's answer is not JSON") from None
        except UNREADABLE as error:
            raise Malformed(f"the upstream's answer is not one of {self.upstream.name}") from error
        if reply.usage is not None:
            self.used.append(reply.usage)
            self.meter.usage = added(self.used)
        wanted = len(self.parts[at].items)
        if self.request.query is None and len(reply.vectors) != wanted:
            raise Malformed(f"the upstream answered {wanted} items with {len(reply.vectors)} vectors")
        if any(not 0 <= index < wanted for index, _ in reply.ranks):
            raise Malformed("the upstream ranked an item that was not sent")
        return reply

    def written(self, replies: list[ListReply]) -> bytes:
        """The whole reply in the client's dialect. Raises ``Malformed``."""
        codec = cast("ListCodec", self.client.lists[self.request.operation])
        try:
            whole = merged(self.parts, replies, self.request.top)
            whole.usage = self.meter.usage
            return orjson.dumps(codec.write_reply(whole, self.request, self.crossing))
        except UNREADABLE as error:
            raise Malformed(f"the upstream's answer is not one of {self.upstream.name}") from error


def batched(call: Call, target: Target, document: dict[str, Any], dialects: Mapping[str, Dialect]) -> Batches | None:
    """The translation of a list call; ``None`` if there is none.

    Raises:
        BadRequest: the document cannot be read: a value is missing, or of a type that this dialect does not have there.
        Untranslatable: it contains something that the target's dialect cannot express.
    """
    client = call.dialect.lists.get(call.operation)
    if not hasattr(client, "read_request"):  # none, or one that is spoken to upstreams only
        return None
    found = _spoken(call, target, dialects)
    if found is None:
        return None
    upstream, codec, address = found
    quirks = target.upstream.provider.quirks(target.upstream, target.model)
    crossing = Crossing(target.model, call.model or target.model, quirks)
    try:
        request = cast("ListCodec", client).read_request(document, call.model or target.model)
        prefix = "rerank_batch:" if request.query is not None else "batch:"
        parts = list(cut(request, _limit(quirks, prefix), _limit(quirks, "batch_tokens:")))
        bodies = [orjson.dumps(codec.write_request(part, crossing)) for part in parts]
    except MISSHAPEN as error:
        raise wrong_type(error) from error
    return Batches(call.dialect, upstream, address, crossing, codec, request, parts, bodies)


def _limit(quirks: frozenset[str], prefix: str) -> int | None:
    found = [int(word[len(prefix) :]) for word in quirks if word.startswith(prefix)]
    return min(found) if found else None


def _spoken(
    call: Call, target: Target, dialects: Mapping[str, Dialect]
) -> tuple[Dialect, UpstreamListCodec, str] | None:
    upstream = target.upstream
    named = dialects.get(upstream.dialect) if upstream.dialect is not None else None
    for dialect in [named] if named is not None and call.operation in named.lists else dialects.values():
        codec = dialect.lists.get(call.operation)
        if codec is None:
            continue
        found = upstream.provider.address(upstream, dialect.name, codec.operation, target.model, {}, stream=False)
        if found is not None:
            return dialect, codec, found[0]
    return None


async def answer(
    attempt: Attempt,
    batches: Batches,
    requests: list[Request],
    refuse: Callable[[Attempt, Response, Way], Awaitable[GatewayError]],
    settle: Callable[[], None],
) -> None:
    """Send every batch and end the reply. Raises :class:`gwcore.errors.UpstreamError`."""
    gate = asyncio.Semaphore(PARALLEL)
    replies: dict[int, ListReply] = {}
    failures: list[GatewayError] = []

    async def ask(at: int, request: Request) -> None:
        async with gate:
            if failures:
                return
            try:
                replies[at] = await exchange(at, request)
            except GatewayError as error:
                failures.append(error)

    async def exchange(at: int, request: Request) -> ListReply:
        response = await attempt.target.upstream.transport.send(request)
        attempt.first_byte_at = attempt.first_byte_at or time.perf_counter()
        try:
            if response.status >= 300:
                attempt.status = response.status
                raise await refuse(attempt, response, batches)
            body = await read_whole(attempt, response)
        finally:
            response.close()
        return batches.read(at, body)

    call, began = attempt.call, time.perf_counter()
    waited = call.waited
    try:
        await _all([ask(at, request) for at, request in enumerate(requests)])
    finally:
        call.waited = waited + time.perf_counter() - began
    if failures:
        # of several, one that leaves open what was billed
        raise next((error for error in failures if ending(error).money == "reap"), failures[0])
    attempt.status = 200
    said = batches.written([replies[at] for at in range(len(requests))])
    settle()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(said))]
    if dropped := batches.dropped():
        headers.append((DROPPED, dropped))
    await call.reply.commit(200, headers)
    await call.reply.end(said)


async def _all(asked: list[Coroutine[Any, Any, None]]) -> None:
    if len(asked) == 1:
        return await asked[0]
    try:
        async with asyncio.TaskGroup() as group:
            for one in asked:
                group.create_task(one)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None

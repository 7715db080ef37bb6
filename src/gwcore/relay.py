"""A translated answer on its way to the client: the same commit point, the same endings as bytes that pass through."""

from __future__ import annotations

import time
from collections.abc import Callable

from gwcore.call import Attempt
from gwcore.dialect import Dialect
from gwcore.errors import Broken, Refused, UpstreamError
from gwcore.translate import Stream, Translation
from gwcore.wire.transport import Headers, Response

DROPPED = b"x-gwcore-dropped"
WHOLE_BODY_CAP = 64 << 20
TAIL = 4096
_KEPT = frozenset({b"request-id", b"x-request-id", b"retry-after", b"retry-after-ms"})


def refused(
    attempt: Attempt, status: int, body: bytes, headers: Headers, translation: Translation | None = None
) -> Refused:
    """The upstream's own error. Its body passes unmodified, but for our credential, should the vendor echo it.

    In another dialect its words pass, in the client's envelope.
    """
    upstream = attempt.target.upstream
    for _, value in upstream.headers:
        secret = value.removeprefix(b"Bearer ")
        if len(secret) >= 8 and secret in body:
            body = body.replace(secret, b"[redacted]")
    message, dialect = f"upstream {upstream.name!r} answered {status}", attempt.call.dialect.name
    if translation is not None:
        said = translation.complaint(status, body)
        message, dialect = said.message, translation.upstream.name
    return Refused(message, status=status, body=body, headers=headers, dialect=dialect)


async def relay(
    attempt: Attempt,
    response: Response,
    translation: Translation,
    settle: Callable[[], None],
    ending: Callable[[], bytes],
) -> None:
    """Read the answer, say it in the client's dialect, end the reply.

    ``settle`` fixes usage and cost as far as they are known; ``ending`` is what an event stream closes with, behind its
    last event. Raises :class:`gwcore.errors.UpstreamError`.
    """
    kind = next((value for name, value in response.headers if name == b"content-type"), b"")
    events = kind.startswith((b"text/event-stream", b"application/x-ndjson")) or (attempt.call.stream and not kind)
    headers = [(name, value) for name, value in response.headers if name in _KEPT]
    if attempt.call.stream:
        headers += [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        stream = translation.stream()
        if events:
            await _relay_events(attempt, response, translation, stream, headers=headers, ending=ending)
        else:
            body = await read_whole(attempt, response)
            said = stream.spelled(translation.read(body))
            settle()
            await _whole(attempt, translation, said, headers)
        return
    body = await read_whole(attempt, response)
    headers.append((b"content-type", b"application/json"))
    reply = translation.stream().gathered(body) if events else translation.read(body)
    said = translation.written(reply)
    settle()
    headers.append((b"content-length", b"%d" % len(said)))
    await _whole(attempt, translation, said, headers)


async def read_on(response: Response, dialect: Dialect, operation: str, tail: bytes) -> bytes:
    """The next bytes of an event stream; none where the connection breaks behind its last event: nothing is missing then."""
    try:
        return await response.read()
    except UpstreamError:
        if dialect.closed(operation, tail):
            return b""
        raise


async def read_whole(attempt: Attempt, response: Response) -> bytes:
    """A body to its end; ``Broken`` for one over the cap."""
    began = time.perf_counter()
    parts: list[bytes] = []
    size = 0
    try:
        while chunk := await response.read():
            parts.append(chunk)
            size += len(chunk)
            if size > WHOLE_BODY_CAP:
                raise Broken(f"an answer of more than {WHOLE_BODY_CAP} bytes cannot be translated")
    finally:
        attempt.call.waited += time.perf_counter() - began
    return b"".join(parts)


async def _whole(attempt: Attempt, translation: Translation, said: bytes, headers: Headers) -> None:
    if dropped := translation.dropped:
        headers.append((DROPPED, dropped))
    await attempt.call.reply.commit(200, headers)
    await attempt.call.reply.end(said)


async def _relay_events(
    attempt: Attempt,
    response: Response,
    translation: Translation,
    stream: Stream,
    *,
    headers: Headers,
    ending: Callable[[], bytes],
) -> None:
    call, reply = attempt.call, attempt.call.reply
    out, tail = await _opening(attempt, response, translation, stream)
    attempt.first_byte_at = time.perf_counter()
    if dropped := translation.dropped:
        headers.append((DROPPED, dropped))
    if not reply.committed:
        await reply.commit(200, headers)
    if out:
        await reply.write(out)
    while chunk := await read_on(response, translation.upstream, call.operation, tail):
        tail = chunk[-TAIL:] if len(chunk) >= TAIL else (tail + chunk)[-TAIL:]
        if out := stream.feed(chunk):
            await reply.write(out)
        if stream.failed is not None:
            raise Broken(stream.failed.message or stream.failed.code)
    if not translation.upstream.ended(call.operation, tail):
        raise Broken(f"upstream {attempt.target.upstream.name!r} ended its stream before the answer was complete")
    await reply.end(stream.close() + ending())


async def _opening(
    attempt: Attempt, response: Response, translation: Translation, stream: Stream
) -> tuple[bytes, bytes]:
    """Bytes to write up to the first content, and the end of what was read. An error before it has its HTTP status."""
    began = time.perf_counter()
    out, tail = b"", b""
    try:
        while not stream.content and (chunk := await response.read()):
            tail = (tail + chunk)[-TAIL:]
            out += stream.feed(chunk)
            if stream.failed is not None and not stream.content:
                failed = stream.failed
                raise Refused(failed.message, status=failed.status, dialect=translation.upstream.name)
    finally:
        attempt.call.waited += time.perf_counter() - began
    return out, tail

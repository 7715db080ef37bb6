"""Relays translated answers to the client, with the same commit point and endings as passed-through bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import structlog

from gwcore.call import Attempt
from gwcore.chat import ChatReply
from gwcore.codec import EVENTS
from gwcore.dialect import Dialect, InBandError
from gwcore.errors import Broken, GatewayError, Malformed, Refused, UpstreamError
from gwcore.outcomes import told_wait, unrouted
from gwcore.translate import Stream, Translation, Way
from gwcore.wire.decode import decode
from gwcore.wire.sse import encode
from gwcore.wire.transport import Headers, Response

_log = structlog.get_logger("gwcore.relay")
_FULL = 95  # percent of a window: templates and the space reserved for the answer take the rest

DROPPED = b"x-gwcore-dropped"
WHOLE_BODY_CAP = 64 << 20
TAIL = 4096
_IDS = frozenset({b"request-id", b"x-request-id"})
_KEPT = _IDS | {b"retry-after", b"retry-after-ms", b"x-should-retry"}
_ERROR = re.compile(rb'"error"\s*:\s*[{"]')
_REDACTED = b"[redacted]"
_EVENTS = (b"data:", b"event:", b":")  # what an event stream begins with


def refused(
    attempt: Attempt, status: int, body: bytes, headers: Headers, translation: Way | None = None
) -> UpstreamError:
    """The upstream's own error. Body and headers pass unmodified, except that an echoed credential of ours is redacted.

    In another dialect its message passes, in the client's envelope. Where no API answered, the message says what to check.
    """
    upstream = attempt.target.upstream
    if status < 400:  # following a redirect would send our credential wherever it points; nothing was executed there
        told = f"upstream {upstream.name!r} answered {status}, a redirect, and none is followed: correct its base_url"
        return Malformed(told, sent=False)
    for secret in _secrets(attempt):
        body = body.replace(secret, _REDACTED)
        # a content type is not a credential, though a configured header may have the same value
        headers = [(k, v if k == b"content-type" else v.replace(secret, _REDACTED)) for k, v in headers]
    if translation is None:
        if unrouted(status, body):
            return Refused(_unrouted(attempt, status), status=status, body=body)
        message = f"upstream {upstream.name!r} answered {status}"
        return Refused(message, status=status, body=body, headers=headers, dialect=attempt.call.dialect.name)
    heard = translation.complaint(status, body)
    said = {"type": heard.type, "code": heard.code, "param": heard.param}
    error = Refused(
        heard.message,
        status=status,
        body=body,
        headers=headers,
        dialect=translation.upstream.name,
        said={key: value for key, value in said.items() if value is not None},
    )
    error.headers = tuple((name.decode(), value.decode("latin-1")) for name, value in _kept(headers))
    if not any(name.startswith("retry-after") for name, _ in error.headers):
        error.retry_after = told_wait(body)  # clients of another dialect do not look there
    return error


def _unrouted(attempt: Attempt, status: int) -> str:
    upstream, dialect = attempt.target.upstream, attempt.call.dialect.name
    told = f"upstream {upstream.name!r} answered {status} without an error of {dialect}: check its base_url"
    if attempt.call.operation == "chat" and upstream.provider.base_url is None:  # a server of one's own
        told += (
            "; if the server has no such API, set `dialect` of the upstream to one that it has: calls are translated"
        )
    return told


def _secrets(attempt: Attempt) -> list[bytes]:
    """The credential values that a vendor may echo."""
    values = (value.removeprefix(b"Bearer ") for _, value in attempt.target.upstream.headers)
    return [value for value in values if len(value) >= 8]


def _heard(attempt: Attempt, message: str) -> str:
    """An upstream's in-stream message, with our credential redacted."""
    for secret in _secrets(attempt):
        message = message.replace(secret.decode("latin-1"), _REDACTED.decode())
    return message


def header(headers: Headers, name: bytes) -> bytes:
    """The first header of that name, or ``b""``."""
    for key, value in headers:
        if key == name:
            return value
    return b""


def _kept(headers: Headers) -> Headers:
    """Headers with the same meaning in other dialects; a request id under both names that SDKs look for."""
    kept = [(name, value) for name, value in headers if name in _KEPT]
    ids = {name: value for name, value in kept if name in _IDS}
    if len(ids) == 1:
        kept += [(name, value) for value in ids.values() for name in _IDS if name not in ids]
    return kept


async def relay(
    attempt: Attempt,
    response: Response,
    translation: Translation,
    settle: Callable[[], None],
    ending: Callable[[], bytes],
) -> None:
    """Read the answer, translate it to the client's dialect, end the reply.

    ``settle`` sets usage and cost as far as they are known; ``ending`` returns what follows the last event of an event
    stream. Raises :class:`gwcore.errors.UpstreamError`.
    """
    kind = header(response.headers, b"content-type")
    lines = kind.startswith((b"application/x-ndjson", b"application/ndjson", b"application/jsonl"))
    events = lines or kind.startswith(b"text/event-stream") or (attempt.call.stream and not kind)
    headers = _kept(response.headers)
    if attempt.call.stream:
        stream = translation.stream(lines=lines)
        told = translation.crossing.content_type
        headers += [(b"content-type", told), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        if told != EVENTS:
            ending = bytes  # comments exist only in event streams
        if events:
            await _relay_events(attempt, response, translation, stream, headers=headers, ending=ending)
        else:
            body = await read_whole(attempt, response)
            heard = _answer(attempt, translation, body, headers)
            said = stream.spelled(heard)
            settle()
            _look_for_words(attempt, heard)
            _look_for_a_cut(attempt, translation)
            await _whole(attempt, translation, said, headers)
        return
    body = await read_whole(attempt, response)
    headers.append((b"content-type", b"application/json"))
    reply = translation.stream(lines=lines).gathered(body) if events else _answer(attempt, translation, body, headers)
    said = translation.written(reply)
    settle()
    _look_for_words(attempt, reply)
    _look_for_a_cut(attempt, translation)
    headers.append((b"content-length", b"%d" % len(said)))
    await _whole(attempt, translation, said, headers)


async def read_on(response: Response, dialect: Dialect, operation: str, tail: bytes) -> bytes:
    """The next bytes of an event stream; none if the connection breaks after its last event: nothing is missing."""
    try:
        return await response.read()
    except UpstreamError:
        if dialect.closed(operation, tail):
            return b""
        raise


def _answer(attempt: Attempt, translation: Translation, body: bytes, headers: Headers) -> ChatReply:
    """Read a whole answer, or a stream labelled otherwise: a missing or wrong content type is no reason to fail."""
    if not body:
        raise says_nothing(attempt)
    if body[:256].lstrip().startswith(_EVENTS):
        return translation.stream().gathered(body)
    told = in_band(translation.upstream, attempt.call.operation, body)
    if told is not None:
        raise refused(attempt, told.status, told.body, headers, translation)
    return translation.read(body)


def in_band(dialect: Dialect, operation: str, body: bytes) -> InBandError | None:
    """The error in a whole answer, whatever its status; ``None`` if it is not an error."""
    if _ERROR.search(body, 0, 512) is None:
        return None
    verdict = dialect.opening(operation, encode(body))
    return verdict if isinstance(verdict, InBandError) else None


def look(attempt: Attempt, response: Response) -> None:
    """Raise ``Malformed`` for a web page, which is no model's answer even with a success status."""
    if attempt.call.route.model != "none" and header(response.headers, b"content-type").startswith(b"text/html"):
        name = attempt.target.upstream.name
        raise Malformed(f"upstream {name!r} answered with a web page: base_url must be the address of its API")


def says_nothing(attempt: Attempt) -> Broken:
    """The error for an answer with neither content nor a reason: whole or streamed, passed through or translated."""
    return Broken(
        f"upstream {attempt.target.upstream.name!r} answered without any content, and without a reason for that"
    )


def _cut(attempt: Attempt) -> Broken:
    return Broken(f"upstream {attempt.target.upstream.name!r} ended its stream before the answer was complete")


def _look_for_words(attempt: Attempt, reply: ChatReply) -> None:
    if reply.void:
        raise says_nothing(attempt)


def _look_for_a_cut(attempt: Attempt, translation: Translation) -> None:
    """Warn if the input fills the context window: this upstream silently truncates what does not fit."""
    usage, window = translation.meter.usage, translation.crossing.window
    if window is not None and usage is not None and usage.total_in * 100 >= window * _FULL:
        translation.crossing.drop(f"input beyond {window} tokens")
        _log.warning("context window full", upstream=str(attempt.target), tokens=usage.total_in, window=window)


async def read_whole(attempt: Attempt, response: Response) -> bytes:
    """Read a body to its end; raises ``Broken`` if it exceeds the cap."""
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
    return plain(b"".join(parts), response.headers)[0]


def plain(body: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """Undo a content-encoding, which upstreams are asked not to use; an unknown or broken one is left unchanged."""
    encoding = header(headers, b"content-encoding")
    if not encoding:
        return body, headers
    try:
        body = decode(body, encoding.decode("latin-1"), limit=WHOLE_BODY_CAP)
    except GatewayError:
        return body, headers
    return body, [(name, value) for name, value in headers if name != b"content-encoding"]


async def _whole(attempt: Attempt, translation: Translation, said: bytes, headers: Headers) -> None:
    if dropped := translation.dropped():
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
    out, tail, over = await _opening(attempt, response, translation, stream)
    last = stream.close() if over else None
    begun = stream.content and out
    if over and (stream.void or not (begun or translation.upstream.ended(call.operation, tail))):
        raise says_nothing(attempt) if stream.void or not stream.content else _cut(attempt)
    attempt.first_byte_at = time.perf_counter()
    told = len(translation.crossing.dropped)
    if dropped := translation.dropped():
        headers.append((DROPPED, dropped))
    if not reply.committed:
        await reply.commit(200, headers)
    while True:
        if out:
            await reply.write(out)
        if stream.failed is not None:
            raise Broken(_heard(attempt, stream.failed.message or stream.failed.code))
        if over or not (chunk := await read_on(response, translation.upstream, call.operation, tail)):
            break
        tail = chunk[-TAIL:] if len(chunk) >= TAIL else (tail + chunk)[-TAIL:]
        out = stream.feed(chunk)
    if not translation.upstream.ended(call.operation, tail):
        raise _cut(attempt)
    said = stream.close() if last is None else last
    _look_for_a_cut(attempt, translation)
    await reply.end(said + ending())
    if late := translation.dropped(told):  # the headers have been sent, and not every SDK skips a comment
        _log.info("left out of a stream", upstream=str(attempt.target), dropped=late.decode())


async def _opening(
    attempt: Attempt, response: Response, translation: Translation, stream: Stream
) -> tuple[bytes, bytes, bool]:
    """Bytes to write up to the first content, the tail of what was read, and whether the stream ended.

    An error before the first content gets its HTTP status, as does one inside a tool call that the client's dialect
    only sends whole, since nothing has been sent yet.
    """
    began = time.perf_counter()
    out, tail, chunk = b"", b"", b""
    try:
        while not (stream.content and out) and (chunk := await response.read()):
            tail = (tail + chunk)[-TAIL:]
            out += stream.feed(chunk)
            if stream.failed is not None and not (stream.content and out):
                failed = stream.failed
                name = translation.upstream.name
                told = _heard(attempt, failed.message)
                raise Refused(told, status=failed.status, dialect=name, said={"code": failed.code})
    finally:
        attempt.call.waited += time.perf_counter() - began
    return out, tail, not chunk

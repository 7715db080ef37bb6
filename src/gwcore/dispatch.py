"""The innermost service: turns an attempt into an upstream request, and relays the answer as the reply.

Same dialect in and out: the body is forwarded as received, with ``model`` spliced in; reply bytes are forwarded as they
arrive, one write per read. Before the commit every failure is raised, so that a router can try another target and the
client gets a correct status; after it, the Gateway ends the stream with an error event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson

from gwcore.alarm import Alarm, Single, patience
from gwcore.batches import Batches, answer, batched
from gwcore.call import Attempt, Call, Outcome
from gwcore.dialect import Dialect, Document, InBandError
from gwcore.errors import (
    Abandoned,
    BadRequest,
    Broken,
    GatewayError,
    NotServed,
    PluginFault,
    Untranslatable,
    UpstreamError,
)
from gwcore.plugin import Demand
from gwcore.prices import Prices
from gwcore.relay import (
    DROPPED,
    TAIL,
    WHOLE_BODY_CAP,
    header,
    in_band,
    look,
    plain,
    read_on,
    refused,
    relay,
    says_nothing,
)
from gwcore.service import Service
from gwcore.taps import Taps, tell
from gwcore.translate import CHAT, Translation, Way, translate, void
from gwcore.units import exact_usd
from gwcore.wire.form import replace_field
from gwcore.wire.splice import insert_top_level, replace_top_level
from gwcore.wire.sse import halved
from gwcore.wire.transport import Headers, Request, Response

COUNT = "count_tokens"
COST = b"x-gwcore-cost-usd"
ERROR_BODY_CAP = 1 << 20

# An allow-list: request headers every vendor understands, plus each dialect's own prefixes. So hop-by-hop headers,
# cookies, credentials, forwarding and metadata-service headers cannot reach an upstream.
_REQUEST_HEADERS = frozenset({b"content-type", b"accept", b"user-agent", b"idempotency-key", b"accept-language"})
_PLAIN_HEADERS = frozenset({b"user-agent", b"idempotency-key"})  # for a request translated to another dialect
_ALONE = frozenset({b"user-agent"})  # for a request split into several: a shared idempotency key would merge them
_NO_DIALECTS: Mapping[str, Dialect] = MappingProxyType({})
_RESPONSE_HEADERS = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"content-disposition",
        b"content-language",
        b"cache-control",
        b"etag",
        b"last-modified",
        b"request-id",
        b"x-request-id",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
    }
)
_RESPONSE_PREFIXES = (b"x-ratelimit-",)


def build(
    attempt: Attempt, demand: Demand = Demand.NOTHING, dialects: Mapping[str, Dialect] = _NO_DIALECTS
) -> tuple[Request, Translation | Batches | None]:
    """Build an attempt's upstream request (the first, if it is split) and its translation, if any; sends nothing.

    Raises:
        Untranslatable: the upstream does not serve this operation, or its dialect cannot express the request.
        NotServed: the upstream does not count tokens.
        BadRequest: the document, the query string or the form cannot be forwarded.
    """
    call, target = attempt.call, attempt.target
    upstream = target.upstream
    found = None
    if upstream.dialect is None or upstream.dialect == call.dialect.name or call.operation != CHAT:
        found = upstream.provider.address(
            upstream, call.dialect.name, call.operation, target.model, call.params, stream=call.stream
        )
    document = call.document
    odd = document is not None and call.operation == CHAT and call.dialect.shape(document) is not None
    if document is not None and (found is None or odd):
        said = {**document, **attempt.fields} if attempt.fields else document
        way = translate(call, target, said, dialects) or (None if odd else batched(call, target, said, dialects))
        if way is not None:
            return _translated(attempt, way, way.body), way
    if found is None:
        # on a 404 clients fall back to counting tokens themselves; any other error stops them
        missing = NotServed if call.operation == COUNT else Untranslatable
        raise missing(
            f"upstream {upstream.name!r} (provider {upstream.provider.name}) does not serve "
            f"{call.operation} in the dialect {call.dialect.name}"
        )
    path, names_model = found
    own = None
    if (
        document is not None
        and call.operation == CHAT
        and (back := call.dialect.returned(call.raw, document, target.model))
    ):
        own, attempt.dropped = back
    request = Request(
        call.method,
        upstream.origin,
        _with_query(path, call.query),
        _request_headers(call, upstream.headers),
        _body(attempt, demand, own) if names_model or call.edited or attempt.fields or demand or own else call.raw,
        upstream.timeouts,
    )
    if attempt.added:
        request.headers += attempt.added
    if upstream.prepare is not None:
        upstream.prepare(upstream, request, call.dialect.name, call.operation, stream=call.stream)
    return request, None


def _translated(attempt: Attempt, way: Translation | Batches, body: bytes) -> Request:
    call, upstream = attempt.call, attempt.target.upstream
    several = isinstance(way, Batches) and len(way.bodies) > 1
    headers = [(k, v) for k, v in call.headers if k in (_ALONE if several else _PLAIN_HEADERS)]
    headers.append((b"content-type", b"application/json"))
    headers.append((b"accept-encoding", b"identity"))
    headers += way.crossing.headers
    headers += attempt.added or ()
    headers += upstream.headers
    request = Request("POST", upstream.origin, way.address, headers, body, upstream.timeouts)
    if upstream.prepare is not None:
        upstream.prepare(upstream, request, way.upstream.name, call.operation, stream=call.stream)
    return request


def _body(attempt: Attempt, demand: Demand, own: Document | None) -> bytes:
    call, model = attempt.call, attempt.target.model
    document = call.document if own is None else own
    if document is None:
        # if the path names the model, the form may name a different one
        if call.route.body == "form" and model and (model != call.asked or call.route.model == "path"):
            return replace_field(call.raw, call.header(b"content-type") or b"", b"model", model.encode())
        return call.raw
    fields = attempt.fields or {}
    edited = call.edited or own is not None
    if edited:
        raw = orjson.dumps({**document, **({"model": model} if "model" in document else {}), **fields})
    elif model and "model" in document and document["model"] != model:
        raw = replace_top_level(call.raw, "model", orjson.dumps(model))
    else:
        raw = call.raw
    if fields and not edited:
        for key, value in fields.items():
            put = replace_top_level if key in document else insert_top_level
            raw = put(raw, key, orjson.dumps(value))
    if demand and call.stream:
        raw = call.dialect.demand_usage(call.operation, raw, document)
    return raw


def _with_query(path: str, query: bytes) -> str:
    """Append the client's parameters, except a credential, as sent by Google's SDKs, and those already in the path."""
    if not query:
        return path
    # parse and re-encode only if something must be removed; otherwise keep the bytes unchanged
    text = query.decode("ascii", "replace")
    if "key=" in text or "?" in path:
        ours = {"key", *(name for name, _ in parse_qsl(path.partition("?")[2]))}
        said = parse_qsl(text, keep_blank_values=True)
        kept = [(name, value) for name, value in said if name not in ours]
        if len(kept) < len(said):
            text = urlencode(kept)
        if not text:
            return path
    if any(c <= " " or c > "~" for c in text):
        raise BadRequest("the query string holds characters that must be percent-encoded")
    return f"{path}{'&' if '?' in path else '?'}{text}"


@cache
def _prefixes(forward: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(prefix.encode() for prefix in forward)


def _request_headers(call: Call, fixed: Headers) -> Headers:
    prefixes = _prefixes(call.dialect.forward)
    headers = [(k, v) for k, v in call.headers if k in _REQUEST_HEADERS or k.startswith(prefixes)]
    # compressed bytes could not be metered or inspected, and compression gains nothing on a data-centre hop
    headers.append((b"accept-encoding", b"identity"))
    headers.extend(fixed)
    return headers


def _response_headers(attempt: Attempt, response: Response) -> Headers:
    prefixes = _prefixes(attempt.call.dialect.forward) + _RESPONSE_PREFIXES
    headers = [(k, v) for k, v in response.headers if k in _RESPONSE_HEADERS or k.startswith(prefixes)]
    if attempt.dropped:
        headers.append((DROPPED, ", ".join(attempt.dropped).encode()))
    return headers


class Dispatch:
    """One per stack; shared by all its calls.

    Attributes:
        prices: the source of every attempt's cost; ``None`` if nothing reads costs.
        tell_cost: whether an event stream ends with a comment giving its cost.
        dialects: the dialects available for upstreams, by name.
    """

    def __init__(
        self,
        demand: Demand,
        taps: Taps,
        prices: Prices | None = None,
        *,
        tell_cost: bool = False,
        dialects: Mapping[str, Dialect] = _NO_DIALECTS,
    ) -> None:
        self.demand = demand
        self.taps = taps
        self.prices = prices
        self.tell_cost = tell_cost
        self.dialects = dialects

    async def __call__(self, attempt: Attempt) -> Outcome:
        """Send the request and relay the answer. Raises :class:`gwcore.errors.UpstreamError`."""
        if attempt.call.left:
            raise asyncio.CancelledError  # the client left while an earlier attempt was being read to its end
        taps = self.taps
        if taps.attempt_started:
            tell(taps.attempt_started, attempt)
        try:
            outcome = await self._exchange(attempt)
            attempt.ended = time.perf_counter()
            return outcome
        except BaseException as error:
            attempt.ended = time.perf_counter()
            if attempt.error is None:
                attempt.error = _error_of(error)
            tell(taps.attempt_failed, attempt)
            raise

    async def _exchange(self, attempt: Attempt) -> Outcome:
        await self._ask(attempt, *build(attempt, self.demand, self.dialects))
        if self.prices is not None and attempt.meter is not None and not (attempt.usage and attempt.usage.billable):
            self.prices.note_unmetered(attempt.target, attempt.call.operation)
        return Outcome(attempt.status or 200, attempt.error, usage=attempt.usage, cost=attempt.cost)

    async def _ask(self, attempt: Attempt, request: Request, translation: Translation | Batches | None) -> None:
        if isinstance(translation, Batches):
            requests = [request, *(_translated(attempt, translation, body) for body in translation.bodies[1:])]
            attempt.meter = translation.meter
            try:
                return await answer(attempt, translation, requests, self._refusal, partial(self._settle, attempt))
            finally:
                self._settle(attempt)
        sent = attempt.target.upstream.transport.send(request)
        del request  # no frame holds it while the answer streams
        began = time.perf_counter()
        try:
            response = await sent
        finally:
            now = time.perf_counter()
            attempt.call.waited += now - began
        attempt.first_byte_at = now
        attempt.status = response.status
        attempt.headers = response.headers
        try:
            if response.status >= 300:
                raise await self._refusal(attempt, response, translation)
            look(attempt, response)
            if translation is not None:
                translation.body, attempt.meter = b"", translation.meter
                settle, ending = partial(self._settle, attempt), partial(self._cost, attempt)
                await relay(attempt, response, translation, settle, ending)
            else:
                await self._pass(attempt, response)
        finally:
            response.close()
            self._settle(attempt)

    def _pass(self, attempt: Attempt, response: Response) -> Coroutine[Any, Any, None]:
        call = attempt.call
        kind = header(response.headers, b"content-type")
        events = kind.startswith(b"text/event-stream") or (call.stream and not kind)
        if self.demand:
            attempt.meter = call.dialect.meter(call.operation, call.document, stream=events)
        # a JSON document instead of a stream is read whole, except where JSON is itself the streaming format
        whole = kind.find(b"json") >= 0 and call.route.stream != "always"
        relayed = self._relay_stream if events or (call.stream and not whole) else self._relay_body
        return relayed(attempt, response)

    def _settle(self, attempt: Attempt) -> None:
        """Set usage and cost from what has been read so far. Idempotent."""
        if attempt.meter is not None and attempt.usage is None:
            attempt.usage = attempt.meter.usage
        if attempt.usage is not None and attempt.cost is None and self.prices is not None:
            card = attempt.card or self.prices.card(attempt.target)
            attempt.cost = card.charge(attempt.usage) if card is not None else None

    async def _refusal(self, attempt: Attempt, response: Response, translation: Way | None) -> UpstreamError:
        parts: list[bytes] = []
        size = 0
        while size < ERROR_BODY_CAP and (chunk := await response.read()):
            parts.append(chunk)
            size += len(chunk)
        # decode it, to parse the error and to redact a credential it may quote
        body, headers = plain(b"".join(parts), _response_headers(attempt, response))
        return refused(attempt, response.status, body, headers, translation)

    async def _relay_body(self, attempt: Attempt, response: Response) -> None:
        """Relay JSON whole, so that truncation is a 502 and not half an answer; anything else as it arrives."""
        call, reply = attempt.call, attempt.call.reply
        headers = _response_headers(attempt, response)
        whole = header(headers, b"content-type").find(b"json") >= 0
        began = time.perf_counter()
        parts: list[bytes] = []
        size = 0
        while chunk := await response.read():
            parts.append(chunk)
            size += len(chunk)
            if not whole or size > WHOLE_BODY_CAP:
                break
        call.waited += time.perf_counter() - began
        body = b"".join(parts)
        if not chunk:
            _judge(attempt, body, headers, whole=whole)
            headers.append((b"content-length", b"%d" % size))
            if attempt.meter is not None and not header(headers, b"content-encoding"):
                attempt.meter.whole(body)
                self._settle(attempt)  # the headers contain the cost
                if attempt.meter.void:
                    raise says_nothing(attempt)
            await reply.commit(response.status, headers)
            await reply.end(body)
            return
        if length := header(response.headers, b"content-length"):
            headers.append((b"content-length", length))
        await reply.commit(response.status, headers)
        while body:
            await reply.write(body)
            body = await response.read()
        await reply.end()

    async def _relay_stream(self, attempt: Attempt, response: Response) -> None:
        call, reply = attempt.call, attempt.call.reply
        headers = _response_headers(attempt, response)
        readable = not header(headers, b"content-encoding")
        events = readable and (
            header(headers, b"content-type").startswith(b"text/event-stream") or not header(headers, b"content-type")
        )
        headers.append((b"cache-control", b"no-cache"))
        headers.append((b"x-accel-buffering", b"no"))
        meter = attempt.meter if readable else None
        chunk = await self._opening(attempt, response, headers) if events else await response.read()
        attempt.first_byte_at = time.perf_counter()
        if not reply.committed:
            await reply.commit(response.status, headers)
        tail = half = b""
        while chunk:
            if events:
                tail = chunk[-TAIL:] if len(chunk) >= TAIL else (tail + chunk)[-TAIL:]
            if meter is not None:
                chunk = meter.feed(chunk)
            if events:
                chunk, half = halved(half + chunk if half else chunk)
            if chunk:
                await reply.write(chunk)
            chunk = await read_on(response, call.dialect, call.operation, tail)
        if meter is not None:
            half += meter.finish()
        await reply.end(self._ending(attempt, tail, half) if events else half)

    def _ending(self, attempt: Attempt, tail: bytes, half: bytes) -> bytes:
        """The end of an event stream: bytes held back, and the cost. ``tail`` is the last of what was read."""
        call, name = attempt.call, attempt.target.upstream.name
        if not call.dialect.ended(call.operation, tail):
            raise Broken(f"upstream {name!r} ended its stream before the answer was complete")
        if call.dialect.failed(call.operation, tail):
            # the client already has the upstream's own error event; just record it
            attempt.error = Broken(f"upstream {name!r} ended its stream with an error")
        told = self._cost(attempt)
        return half + b"\n\n" + told if half and told else half + told  # vendors omit the last newline

    def _cost(self, attempt: Attempt) -> bytes:
        """The cost as the last comment of an event stream, which readers skip unless they look for it."""
        self._settle(attempt)
        told = cost_of(attempt.call) if self.tell_cost and attempt.call.dialect.comments else None
        return b"" if told is None else b": %s %s\n\n" % (COST, told)

    async def _opening(self, attempt: Attempt, response: Response, headers: Headers) -> bytes:
        """The bytes up to the first content. An error frame before it is raised with the status it should have had."""
        call = attempt.call
        began = time.perf_counter()
        buffer = b""
        try:
            while chunk := await response.read():
                buffer = buffer + chunk if buffer else chunk
                verdict = call.dialect.opening(call.operation, buffer)
                if isinstance(verdict, InBandError):
                    clean = [(k, v) for k, v in headers if k != b"content-type"]
                    clean.append((b"content-type", b"application/json"))
                    raise refused(attempt, verdict.status, verdict.body, clean)
                if verdict == "go":
                    return buffer
        except asyncio.CancelledError:
            if attempt.meter is not None:
                attempt.meter.feed(buffer)  # the input is billed whether or not anybody reads the answer
            raise
        finally:
            call.waited += time.perf_counter() - began
        if not call.dialect.ended(call.operation, buffer[-TAIL:]):
            raise Broken(f"upstream {attempt.target.upstream.name!r} ended its stream before any content")
        if call.operation == CHAT and void(call.dialect, buffer):
            if attempt.meter is not None:
                attempt.meter.feed(buffer)
            raise says_nothing(attempt)
        return buffer


def _judge(attempt: Attempt, body: bytes, headers: Headers, *, whole: bool) -> None:
    """Raise the error that a body with a success status holds. Skips stored data, such as the errors of a batch."""
    call = attempt.call
    if call.route.model == "none":
        return
    if not body:
        raise says_nothing(attempt)
    if whole and (told := in_band(call.dialect, call.operation, body)) is not None:
        raise refused(attempt, told.status, told.body, headers)


def cost_of(call: Call) -> bytes | None:
    """Total cost of the call's attempts in dollars, exact to the nano-dollar; ``None`` unless all of it is priced."""
    if call.served is None or call.served.cost is None:
        return None
    total = 0
    for attempt in call.attempts:
        if attempt.cost is not None:
            if attempt.cost.unpriced:
                return None
            total += attempt.cost.nano
    return exact_usd(total).encode()


def first_target(inner: Service[Attempt]) -> Service[Call]:
    """The router of a stack without one: the first target, once, within the client's deadline."""

    def router(call: Call) -> Coroutine[Any, Any, Outcome]:
        seconds = patience(call)
        attempt = Attempt(call, call.targets[0])
        return inner(attempt) if seconds is None else _within(seconds, inner, attempt)

    return router


def _error_of(error: BaseException) -> GatewayError:
    """The error that an attempt's record gives for its end."""
    if isinstance(error, GatewayError):
        return error
    return Abandoned() if isinstance(error, asyncio.CancelledError) else PluginFault()


async def _within(seconds: float, inner: Service[Attempt], attempt: Attempt) -> Outcome:
    """Run the attempt; raises ``UpstreamTimeout`` if its answer does not begin in time."""
    call = attempt.call
    call.deadline = time.monotonic() + seconds
    alarm = Alarm(attempt, (seconds, "total"), None)
    call.reply.gate = Single(call, alarm)
    try:
        return await inner(attempt)
    except asyncio.CancelledError:
        late = alarm.ours()
        if late is None:
            raise
        raise late from None
    finally:
        alarm.off()
        call.reply.gate = None

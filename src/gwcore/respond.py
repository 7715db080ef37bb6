"""The gateway's own output: its headers on every response, and errors in the client's dialect."""

from __future__ import annotations

import math
import re
import time
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

import orjson
import structlog

from gwcore.call import Attempt, Call
from gwcore.dispatch import COST, cost_of
from gwcore.errors import BudgetExceeded, GatewayError, PluginFault, Refused, UnknownModel
from gwcore.log import places
from gwcore.relay import header
from gwcore.reply import COMMITTED, IDLE, Send
from gwcore.wire.transport import Headers

REQUEST_ID = b"x-gwcore-request-id"

_log = structlog.get_logger("gwcore")
_HIDDEN = re.compile(r"[^!-+\--:<-~]")  # control, blank, comma, semicolon, non-ASCII


def named(send: Send, request_id: str) -> Send:
    """Wrap ``send`` to add ``x-gwcore-request-id``, for requests that are not calls."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (REQUEST_ID, request_id.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return sending


def stamp(call: Call, _status: int, headers: Headers) -> None:
    """Add the gateway's headers just before they are sent.

    ``x-gwcore-overhead-ms`` is the time from ingress to here minus the time spent waiting for upstreams.
    """
    call.overhead = time.perf_counter() - call.started - call.waited
    overhead = b"%.3f" % (call.overhead * 1000)
    headers.append((REQUEST_ID, call.id.encode()))
    attempts = call.attempts
    served = call.served
    if served is not None:
        headers.append((b"x-gwcore-upstream", served.target.upstream.name.encode("latin-1", "replace")))
        headers.append((b"x-gwcore-model", _printable(served.target.model)))
        if len(attempts) > 1 and (failed := [_why(a) for a in attempts if a.error]):
            headers.append((b"x-gwcore-failed", b", ".join(failed)))
        if (cost := cost_of(call)) is not None:
            headers.append((COST, cost))
    headers.append((b"x-gwcore-attempts", b"%d" % len(attempts)))
    headers.append((b"x-gwcore-overhead-ms", overhead))
    headers.append((b"server-timing", b"gwcore;dur=%b, upstream;dur=%.3f" % (overhead, call.waited * 1000)))


@lru_cache(1024)
def _printable(name: str) -> bytes:
    """Sanitise a model name, which comes from clients, for a header."""
    return _HIDDEN.sub("?", name).encode()


def _why(attempt: Attempt) -> bytes:
    error = attempt.error
    reason = str(error.status) if isinstance(error, Refused) else error.code if error is not None else ""
    return b"%b %b" % (_printable(str(attempt.target)), reason.encode("latin-1"))


def plain_error(error: GatewayError, request_id: str) -> bytes:
    """An error for a client whose dialect is unknown, in the shape that most clients read."""
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.code, "code": error.code, "request_id": request_id}}
    )


def error_headers(error: GatewayError) -> Headers:
    """Content type, ``retry-after`` and the error's own headers."""
    headers: Headers = [(b"content-type", b"application/json")]
    headers.extend((name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers)
    if error.retry_after is not None and "retry-after" not in (name for name, _ in error.headers):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    # 401: Claude Code repeats it for minutes, with the same key, unless it is told not to; one that can fetch a new key still does
    if (isinstance(error, BudgetExceeded) or error.status == 401) and "x-should-retry" not in dict(error.headers):
        headers.append((b"x-should-retry", b"false"))
    return headers


async def fail(call: Call, error: GatewayError) -> None:
    """Report an error to the client: before the commit with its status, in an event stream with a terminal event.

    Raises:
        ConnectionAbortedError: part of some other answer has been sent; only a cut shows the client that it is
            incomplete.
    """
    reply = call.reply
    if reply.state == IDLE:
        if isinstance(error, Refused) and error.dialect == call.dialect.name:
            body, headers = error.body, error.raw_headers
        else:
            body, headers = call.dialect.error_body(error, call.id), error_headers(error)
        headers.append((b"content-length", b"%d" % len(body)))
        await reply.commit(error.status, headers)
        await reply.end(body)
    elif reply.state == COMMITTED:
        # call.stream does not tell: a form field makes transcripts stream, and Google's streams may be a JSON list
        kind = header(reply.headers, b"content-type")
        if not (kind.startswith(b"text/event-stream") or (call.stream and not kind)):
            raise ConnectionAbortedError(error.code)
        await reply.end(call.dialect.error_event(error, call.id, call.operation, reply.head))


def as_fault(error: Exception, plugins: dict[str, str]) -> PluginFault:
    """Turn an unexpected exception into a fault. Logs type and location, never its text, which may quote a prompt.

    ``plugins`` maps import packages to plugin names, to attribute the exception.
    """
    owner = None
    tb = error.__traceback__
    while tb is not None:
        package = str(tb.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        owner = plugins.get(package, owner)
        tb = tb.tb_next
    _log.error(
        "unnamed exception",
        error=type(error).__name__,
        plugin=owner,
        at=places(error),
    )
    return PluginFault(owner)


def models_reply(call: Call, body: bytes | None) -> tuple[int, bytes]:
    """Status and body of a model list; 404 in the client's dialect if the wanted model is not in it."""
    if body is not None:
        return 200, body
    error = UnknownModel(f"The model `{call.params.get('model', '')[:200]}` does not exist or is not accessible")
    return error.status, call.dialect.error_body(error, call.id)

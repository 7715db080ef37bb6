"""The lifespan of an application behind the gateway: it starts after the gateway and stops before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

Message = MutableMapping[str, Any]

STARTED = "lifespan.startup.complete"
FAILED = "lifespan.startup.failed"
STOPPED = "lifespan.shutdown.complete"

_log = structlog.get_logger("gwcore")


class _Side:
    """What an application hears and says of the server's lifespan, of which the startup was received."""

    def __init__(self, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        self._receive = receive
        self._send = send
        self._began = self.over = False
        self.last: Message | None = None

    async def hear(self) -> Message:
        if not self._began:
            self._began = True
            return {"type": "lifespan.startup"}
        message = await self._receive()
        self.over = True
        return message

    async def say(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):
            raise RuntimeError(message["type"])  # it takes this for a request
        self.last = message
        if message["type"] == STARTED:
            await self._send(message)


async def beside(
    app: Callable[..., Awaitable[None]],
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> Message:
    """Lead ``app`` through the lifespan whose startup was received; an application that knows none is served all the same.

    That it started is sent on at once. What it says last is returned: who stands in front of it stops before that is sent, and
    not before the server says so, though the application's lifespan may break while both serve.
    """
    side = _Side(receive, send)
    broke: Exception | None = None
    try:
        await app(scope, side.hear, side.say)
    except Exception as error:
        broke = error
    if side.last is None:
        await send({"type": STARTED})
        side.last, broke = {"type": STOPPED}, None
    elif side.last["type"] == FAILED:
        return side.last
    if not side.over:  # it did not wait for the end
        if broke is not None:
            _log.error("the lifespan of the application behind the gateway broke", error=type(broke).__name__)
        await receive()
    if side.last["type"] != STARTED:
        return side.last
    return {"type": STOPPED} if broke is None else {"type": "lifespan.shutdown.failed", "message": type(broke).__name__}

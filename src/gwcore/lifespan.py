"""The lifespan of an application behind the gateway: it starts after it and stops before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

STARTED = "lifespan.startup.complete"
FAILED = "lifespan.startup.failed"
STOPPED = "lifespan.shutdown.complete"


async def beside(
    app: Callable[..., Awaitable[None]],
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> Message:
    """Lead ``app`` through the lifespan whose startup was received; an application that knows none is served all the same.

    That it started is sent on at once. What it says last is returned: who stands in front of it stops before that is sent.
    """
    last: Message | None = None
    first: list[Message] = [{"type": "lifespan.startup"}]

    async def hear() -> Message:
        return first.pop() if first else await receive()

    async def say(message: Message) -> None:
        nonlocal last
        if not message["type"].startswith("lifespan."):
            raise RuntimeError(message["type"])  # it takes this for a request
        last = message
        if message["type"] == STARTED:
            await send(message)

    try:
        await app(scope, hear, say)
    except Exception as error:
        if last is not None and last["type"] == STARTED:
            return {"type": "lifespan.shutdown.failed", "message": type(error).__name__}
    if last is None:
        await send({"type": STARTED})
    if last is None or last["type"] == STARTED:  # it did not wait for the end
        await receive()
        return {"type": STOPPED}
    return last

"""Keep-alive comments in silent streams, if ``server.keepalive`` is set.

Load balancers cut connections that are silent for a minute; a model may think for ten. The price: the first comment
sends the head of a 200, so an error after it can only be an event of the stream (pains D4 and D6 conflict). As no
content has been sent with it, another target can still be tried.
"""

from __future__ import annotations

import asyncio

from gwcore.call import Call
from gwcore.reply import ENDED
from gwcore.wire.sse import BLANK_LINES


def wanted(call: Call) -> bool:
    """Whether the client reads events: a comment inside any other body would corrupt it."""
    return call.stream and (call.route.stream == "body" or b"alt=sse" in call.query)


async def keep_alive(call: Call, interval: float) -> None:
    """Write a comment after ``interval`` seconds of silence, only between two frames. Runs until cancelled."""
    reply = call.reply
    sent = -1
    while reply.state != ENDED:
        if reply.sent == sent and not reply.held and (not reply.last or reply.last.endswith(BLANK_LINES)):
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await reply.comment(call.dialect.keepalive, headers)
        sent = reply.sent
        await asyncio.sleep(interval)

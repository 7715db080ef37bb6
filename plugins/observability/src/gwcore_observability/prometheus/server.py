"""A separate port for ``/metrics``. Every worker listens on it; the kernel picks one per connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from gwcore.errors import BadConfig
from gwcore.reply import Send

PATHS = ("/metrics", "/metrics/")
"""Also with a trailing slash, which LiteLLM's Kubernetes chart requests."""
Text = Callable[[str], Awaitable[tuple[bytes, str]]]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handling to the gateway."""
        yield


class Exposition:
    """Serves ``GET /metrics``, and nothing else."""

    def __init__(self, host: str, port: int, *, shared: bool) -> None:
        self._address = (host, port)
        self._shared = shared
        self._users: list[Text] = []
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port listened on; if 0 was configured, the port chosen by the system."""
        return self._address[1]

    async def start(self, text: Text) -> None:
        """Listen; after a reload, the new stack takes over. Raises ``BadConfig`` if it cannot listen."""
        self._users.append(text)
        if self._server is not None:
            return
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            self._users.clear()
            raise BadConfig(
                f"prometheus: cannot listen on {host}:{port} ({error.strerror}); choose another port"
            ) from None
        self._address = (host, listener.getsockname()[1])
        config = uvicorn.Config(
            self, lifespan="off", log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([listener]))

    async def stop(self, text: Text) -> None:
        """Release one stack; after the last, close the port."""
        self._users.remove(text)
        if self._users or self._server is None or self._task is None:
            return
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.005)  # uvicorn has no event for it
        self._server.should_exit = True
        await self._task
        self._server = self._task = None

    async def aclose(self) -> None:
        """For :meth:`gwcore.plugin.Setup.once`; :meth:`stop` does all the work."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:  # noqa: ARG002 - ASGI
        """ASGI 3."""
        status, body, kind = 404, b"GET /metrics\n", "text/plain"
        if scope["type"] == "http" and scope["path"] in PATHS and scope["method"] in {"GET", "HEAD"} and self._users:
            accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
            status = 200
            body, kind = await self._users[-1](accept)
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

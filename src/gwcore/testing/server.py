"""A real server on a real port, in the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

from gwcore.server.protocol import EdgeProtocol, edge_protocol


class _Server(uvicorn.Server):
    """Stops at once, whereas uvicorn checks ten times a second: a suite starts and stops thousands of servers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handling to the test runner."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but raise if the application does not start: uvicorn would exit the test runner's process."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise RuntimeError("the application did not start; the log says why") from None

    async def main_loop(self) -> None:
        """As uvicorn's, but wakes up on ``ended``."""
        count = 0
        while not await self.on_tick(count):
            count += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), 0.1)


@asynccontextmanager
async def running(
    app: Any, *, edge: bool = True, lifespan: str = "on", protocol: type[asyncio.Protocol] | None = None
) -> AsyncIterator[str]:
    """Serve ``app``; yields its URL.

    ``edge`` uses ``protocol``, by default that of ``gwcore run``; otherwise stock uvicorn, as in a host application.
    """
    if protocol is None:
        protocol = edge_protocol(EdgeProtocol.limits)  # a new class, because its sweep belongs to this loop
    config = uvicorn.Config(
        app,
        port=0,
        lifespan=lifespan,  # type: ignore[arg-type]  # uvicorn's literal
        log_config=None,
        http=protocol if edge else "httptools",
        ws="none",
        proxy_headers=False,  # as in gwcore run: a client must not choose its own address
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("the application did not start")
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        server.ended.set()
        await task


def rss(pid: int) -> float:
    """Resident memory of a process in MiB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

"""One worker: uvicorn with our protocol, our limits, and our signals."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from gwcore.errors import BadConfig
from gwcore.server.protocol import EdgeLimits, edge_protocol

AT_ONCE = 2.0
"""Seconds in which a server that is to end at once still closes what its application holds."""
FAREWELL = 1.0
"""Seconds that kept connections have for one more request when a server ends."""
FEW = 1000
"""Connections below which even a server that nobody told how many to take says that there cannot be more."""
SPARE = 64
"""Open files that are no connection of a client or to an upstream: stores, sinks, logs."""
NOT_STARTED = 3
"""Exit code of a process whose application could not start."""
LOOK = 0.1
"""Seconds between two looks at files that are watched."""
_log = structlog.get_logger("gwcore")


class EdgeServer(uvicorn.Server):
    """Drains on the first SIGTERM or SIGINT, ends at once on the second, reloads on SIGHUP.

    Under a supervisor it is the supervisor who counts: a terminal's Ctrl-C and systemd's stop reach every process, so a
    worker hears each signal twice, its own and the one passed on.
    """

    def __init__(
        self, config: uvicorn.Config, app: Any, on_ready: Callable[[], None] | None, *, supervised: bool = False
    ) -> None:
        super().__init__(config)
        self._app = app
        self._on_ready = on_ready
        self._supervised = supervised
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Through the loop, so that handlers run between callbacks and not inside one."""
        loop = asyncio.get_running_loop()
        handled = [signal.SIGTERM, signal.SIGINT]
        for number in handled:
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        try:
            yield
        finally:
            for number in (*handled, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that we serve once we do."""
        await super().startup(sockets)
        quiet_collector()
        if self.started and self._on_ready is not None:
            self._on_ready()

    def _stop(self) -> None:
        if self.should_exit and not self._supervised:
            self.force_exit = True
        self.should_exit = True
        if hasattr(self._app, "drain"):
            self._app.drain()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more; tell who keeps a connection that its next answer is the last; then as uvicorn does.

        A connection that is closed while its client writes is a failed request there, however it was meant.
        """
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        end = time.monotonic() + FAREWELL
        while self.server_state.connections and not self.force_exit and time.monotonic() < end:  # noqa: ASYNC110 - uvicorn's set
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if self.force_exit:
            await self._end_at_once()

    async def _end_at_once(self) -> None:
        """Cut what is under way, and have plugins keep what they would lose: journals, queues, places among the workers."""
        for task in self.server_state.tasks:
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.lifespan.shutdown(), AT_ONCE)

    def reload(self) -> None:
        """Have the application read its stack file again."""
        if hasattr(self._app, "reload"):
            self._spawn(self._app.reload())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def watch(self, paths: list[Path]) -> None:
        """Reload when a file changes."""
        seen = stamps(paths)
        while True:
            await asyncio.sleep(LOOK)
            now = stamps(paths)
            if now != seen:
                seen = now
                self.reload()


def stamps(paths: list[Path]) -> list[tuple[int, int, int]]:
    """What differs when a file was written, or another took its place.

    The system's own watches are of what was there when they began: an editor that saves by renaming, and Kubernetes, which
    swaps a link, would be heard once or never.
    """
    found = []
    for path in paths:
        try:
            stat = path.stat()
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append((0, 0, 0))
    return found


def quiet_collector() -> None:
    """Take what start-up made out of the cyclic collector's sight, and let it run seldom.

    A request leaves no cycles: at the default of 700 allocations the collector was 10 % of a request's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``BadConfig`` naming the address and the mend."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadConfig(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host") from None
    listener.setblocking(False)
    listener.set_inheritable(True)
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def fitting(limits: EdgeLimits, files: int) -> EdgeLimits:
    """As many connections as there may be open files for: each client's, one to an upstream, and some for the rest.

    One more would be reset by the system, and none to an upstream could be opened; so it hears 503 instead.
    """
    most = max(1, (files - SPARE) // 2)
    if files == resource.RLIM_INFINITY or limits.max_connections <= most:
        return limits
    if most < FEW or limits.max_connections != EdgeLimits().max_connections:
        _log.warning(
            "fewer connections than server.max_connections, since few files may be open",
            connections=most,
            open_files=files,
            mend="raise the limit of open files (ulimit -n, LimitNOFILE), or set server.max_connections",
        )
    return replace(limits, max_connections=most)


def serve_on(
    listener: socket.socket,
    make: Callable[[], Any],
    *,
    limits: EdgeLimits,
    drain: float,
    watch: list[Path] | None = None,
    on_ready: Callable[[], None] | None = None,
    supervised: bool = False,
) -> int:
    """Serve until a signal ends it, or ``supervised`` by somebody who ends it at once if need be; returns the exit code."""
    # each client and each upstream is a descriptor; the soft limit of most systems is 1024
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limits = fitting(limits, most)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold every key and prompt in memory
    app = make()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=edge_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(drain)),
        backlog=2048,
        server_header=False,
        proxy_headers=False,
    )
    server = EdgeServer(config, app, on_ready, supervised=supervised)

    async def main() -> None:
        watcher = asyncio.create_task(server.watch(watch)) if watch else None
        try:
            await server.serve([listener])
        finally:
            if watcher is not None:
                watcher.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())
    return 0 if server.started else NOT_STARTED


def serve(
    make: Callable[[], Any],
    *,
    host: str,
    port: int,
    limits: EdgeLimits,
    drain: float = 30.0,
    watch: list[Path] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """One worker in this process."""
    listener = bind(host, port)
    url = address(listener)
    ready = None if on_ready is None else lambda: on_ready(url)
    return serve_on(listener, make, limits=limits, drain=drain, watch=watch, on_ready=ready)

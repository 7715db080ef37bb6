"""One worker: uvicorn with our protocol, our limits, and our signals."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import sys
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
"""Seconds that a forced exit still allows for closing the application's resources."""
FAREWELL = 1.0
"""Seconds that keep-alive connections have for one more request at shutdown."""
FEW = 1000
"""Below this many possible connections, warn even if ``max_connections`` was not configured."""
SPARE = 96
"""File descriptors reserved for other than client and upstream connections: stores, sinks, logs."""
NOT_STARTED = 3
"""Exit code of a process whose application could not start."""
ACCEPTS = 32
"""Connections accepted per turn of the event loop: libuv accepts one per listening handle, and on a busy loop newcomers waited."""
SWITCH = 0.0005
"""Seconds after which a thread may ask for the GIL: at Python's 5 ms the threads of stores starve beside a busy loop."""
LOOK = 0.1
"""Polling interval, in seconds, for watched files."""
_log = structlog.get_logger("gwcore")


class EdgeServer(uvicorn.Server):
    """Drains on the first SIGTERM or SIGINT, exits at once on the second, reloads on SIGHUP.

    Under a supervisor, only the supervisor counts signals: a terminal's Ctrl-C and systemd's stop reach every process,
        so
    a worker receives each signal twice, directly and passed on.
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
        """Install handlers on the loop, so that they run between callbacks and not inside one."""
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
        """Report readiness once we are serving."""
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
        """Stop accepting, answer further keep-alive requests with ``connection: close``, then proceed as uvicorn does.

        Closing a connection just as its client writes would be a failed request to that client.
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
        """Cancel calls in flight, but let plugins save what they would lose: journals, queues, worker slots."""
        for task in self.server_state.tasks:
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.lifespan.shutdown(), AT_ONCE)

    def reload(self) -> None:
        """Have the application reload its stack file."""
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
    """Values that change when a file is written or replaced.

    The system's file watches follow the original inode: they would miss editors that save by renaming, and Kubernetes,
    which swaps a symlink.
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
    """Exclude start-up objects from the cyclic GC, and run it rarely.

    Requests leave no cycles, yet at the default threshold of 700 allocations the GC took 10 % of a request's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``BadConfig`` naming the address and the fix."""
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
    """Cap connections by the limit of open files: one per client, one to an upstream for each, and ``SPARE`` others.

    Beyond that the system would reset new connections, and none to an upstream could be opened; so answer 503 instead.
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
    """Serve until a signal stops it; if ``supervised``, only the supervisor forces an exit. Returns the exit code."""
    # each client and each upstream connection is a file descriptor; the soft limit of most systems is 1024
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limits = fitting(limits, most)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold every key and prompt in memory
    sys.setswitchinterval(SWITCH)
    app = make()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=edge_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # below are clients' mistakes: whoever can connect could fill a disk
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
            await server.serve([listener, *(listener.dup() for _ in range(ACCEPTS - 1))])
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

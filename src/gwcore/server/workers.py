"""``--workers N``: a parent that binds once, forks, restarts workers that die, and passes signals on.

If the parent is killed, its workers stop too: each waits on a pipe whose other end only the parent holds.

Fork, not spawn: the parent has imported everything and started no loop and no thread, so workers share its memory and are
ready at once. All accept from one socket, and the kernel wakes them in turn (uvloop listens level-triggered); with
SO_REUSEPORT a restarting worker's share of the backlog would be lost.

A reload is checked by the parent first. An invalid file is not passed on; its problem is written to the status file
named by ``GWCORE_STATUS_FILE``, which every worker's health page reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import structlog

from gwcore.errors import BadConfig
from gwcore.server.protocol import EdgeLimits
from gwcore.server.run import NOT_STARTED, address, bind, serve_on, stamps
from gwcore.workers import COUNT_ENV, FOLDER_ENV

STATUS_ENV = "GWCORE_STATUS_FILE"
UP = 30.0
"""Seconds after which a living worker counts as serving."""
PAUSE = 0.05
"""Back-off in seconds before the first restart of a worker that did not come up; doubles each time, up to 2."""
CLOSING = 20.0
"""Seconds after the drain for a worker to close its resources: a hanging sink takes five, the ledger as many."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = structlog.get_logger("gwcore")


class Supervisor:
    """The parent of the workers."""

    def __init__(
        self,
        count: int,
        work: Callable[[], int],
        drain: float,
        check: Callable[[], str | None],
        *,
        ups: int | None = None,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.count = count
        self.work = work
        self.drain = drain
        self.check = check
        self.ups = ups  # read end of a pipe: each worker writes a byte once it serves
        self.on_up = on_up
        self.pids: dict[int, float] = {}
        self.alive = os.pipe()
        self.stopping_since: float | None = None
        self.failures = 0
        self.due: list[float] = []
        self.gave_up = False
        self.reload_wanted = False

    def run(self, watch: list[Path]) -> int:
        """Run until a signal stops it; returns the exit code."""
        with _temporary() as folder:
            self.status = Path(folder) / "status.json"
            os.environ[STATUS_ENV] = str(self.status)
            shared = Path(folder) / "shared"
            shared.mkdir()
            os.environ[COUNT_ENV], os.environ[FOLDER_ENV] = str(self.count), str(shared)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            signal.signal(signal.SIGHUP, self._want_reload)
            seen = stamps(watch)
            for _ in range(self.count):
                self._fork()
            while self.pids or self._waiting():
                self._hear()
                self._reap()
                self._fork_due()
                now = stamps(watch)
                if self.reload_wanted or now != seen:
                    seen, self.reload_wanted = now, False
                    self._reload()
                self._kill_late()
                time.sleep(0.05)
        return 1 if self.gave_up else 0

    def _hear(self) -> None:
        """Report readiness once a worker serves."""
        if self.ups is None:
            return
        with contextlib.suppress(BlockingIOError):
            if os.read(self.ups, 512):
                told, self.on_up = self.on_up, lambda: None
                told()

    def _fork(self) -> None:
        # block signals: right after the fork one would miss the new worker, or make it act as the parent
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker()
            self.pids[pid] = time.monotonic()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be_worker(self) -> NoReturn:
        code = 1
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self.alive[1])
            threading.Thread(target=_end_with_parent, args=(self.alive[0],), daemon=True).start()
            code = self.work()
        except SystemExit as error:  # uvicorn's way to say that the application did not start
            code = error.code if isinstance(error.code, int) else 1
        except Exception:  # nobody above would print it
            traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        for pid, born in list(self.pids.items()):
            code = None
            with contextlib.suppress(ChildProcessError):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done == 0:
                    continue
                code = os.waitstatus_to_exitcode(status)
            del self.pids[pid]
            if self.stopping_since is None:
                _log.error("worker ended", pid=pid, exit_code=code)
                self._again(served=code != NOT_STARTED and time.monotonic() - born >= 1)

    def _again(self, *, served: bool) -> None:
        """Restart with a back-off; give up if no worker is up and ten in a row have failed to start serving."""
        self.failures = 0 if served else self.failures + 1
        if self.failures > 10 and not any(time.monotonic() - born > UP for born in self.pids.values()):
            _log.error("workers do not stay up; giving up")
            self.gave_up = True
            self._stop(signal.SIGTERM, None)
            return
        # do not sleep: other workers may exit meanwhile, and signals arrive
        self.due.append(time.monotonic() + min(2.0, PAUSE * 2 ** min(self.failures, 10)))

    def _fork_due(self) -> None:
        now = time.monotonic()
        while self._waiting() and min(self.due) <= now:
            self.due.remove(min(self.due))
            try:
                self._fork()
            except OSError as error:  # no memory, or no more processes allowed: others serve until there are
                _log.error("cannot start a worker", problem=error.strerror)
                self.due.append(now + 2.0)

    def _waiting(self) -> bool:
        return bool(self.due) and self.stopping_since is None

    def _stop(self, _number: int, _frame: Any) -> None:
        again, self.stopping_since = self.stopping_since is not None, self.stopping_since or time.monotonic()
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if again else signal.SIGTERM)

    def _kill_late(self) -> None:
        if self.stopping_since is not None and time.monotonic() - self.stopping_since > self.drain + CLOSING:
            self._stop(signal.SIGTERM, None)

    def _want_reload(self, _number: int, _frame: Any) -> None:
        self.reload_wanted = True

    def _reload(self) -> None:
        try:
            problem = self.check()
        except (
            Exception
        ) as error:  # what plugins check of their settings may raise anything; the parent must survive it
            problem = f"{type(error).__name__} while reading it"
        fresh = self.status.with_suffix(".new")
        try:
            fresh.write_text(json.dumps({"reload_failed": problem}), encoding="utf-8")
            fresh.replace(self.status)
        except OSError as error:  # a full disk: only health pages miss it
            _log.error("the status of the reload cannot be written", problem=error.strerror)
        if problem is not None:
            _log.error("reload refused", problem=problem)
            return
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)


def _temporary() -> tempfile.TemporaryDirectory[str]:
    """The workers' shared folder. Raises ``BadConfig`` if nothing is writable, as on a read-only root file system."""
    try:
        return tempfile.TemporaryDirectory(prefix="gwcore-")
    except OSError as error:
        mend = "mount a /tmp, set TMPDIR, or run one worker"
        raise BadConfig(f"--workers needs a folder for temporary files: {error.strerror}; {mend}") from None


def _end_with_parent(alive: int) -> None:
    """Drain this worker once the other end of the pipe is closed."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def serve_workers(
    make: Callable[[], Any],
    *,
    workers: int,
    host: str,
    port: int,
    limits: EdgeLimits,
    check: Callable[[], str | None],
    drain: float = 30.0,
    watch: list[Path] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve with several processes on one port. Raises ``BadConfig`` if the address is not available."""
    if not hasattr(os, "fork"):
        raise BadConfig("--workers needs fork, which this system does not have; run one worker")
    listener = bind(host, port)
    listener.listen(2048)
    ups, up = os.pipe()
    os.set_blocking(ups, False)

    def tell() -> None:
        os.write(up, b".")

    work = partial(serve_on, listener, make, limits=limits, drain=drain, supervised=True, on_ready=tell)
    announce = (lambda: None) if on_ready is None else partial(on_ready, address(listener))
    return Supervisor(workers, work, drain, check, ups=ups, on_up=announce).run(watch or [])

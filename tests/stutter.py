"""``make stutter``: the suite on a machine that stops each test once for a while. It must pass all the same.

A pytest plugin. At a random moment of each test, its process, one of the processes below it (a store, a gateway), or all of
them are stopped for :data:`LONG` seconds, as a crowded build machine does now and then. A test that counts on something to
end within some hundred milliseconds fails here first.

usage: python -m pytest -p tests.stutter …
"""

import math
import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

LONG = float(os.environ.get("GWCORE_STUTTER", "0.6"))
AFTER = (0.004, 1.2)
"""Seconds from a test's beginning to its stop; a test that has ended by then is not stopped."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    _tell(math.exp(random.uniform(*map(math.log, AFTER))))
    try:
        return (yield)
    finally:
        _tell(math.inf)


def _tell(seconds):
    """Ask for a stop in so many seconds, in place of one that was asked for before."""
    stopper().stdin.write(f"{seconds}\n".encode())
    stopper().stdin.flush()


@cache
def stopper():
    return subprocess.Popen([sys.executable, __file__, str(os.getpid())], stdin=subprocess.PIPE)


# ── the process that stops the others ────────────────────────────────────────────────────────────────────────────────


def children():
    """Parent → its processes (Linux), but for those that a test has stopped: they must not go on before it says so."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
            if state != "T":
                found.setdefault(int(parent), []).append(int(stat.parent.name))
    return found


def below(pid, tree):
    """All processes that one has started, and those have, but for this one."""
    own = [child for child in tree.get(pid, []) if child != os.getpid()]
    return [one for child in own for one in (child, *below(child, tree))]


def stop(processes, seconds):
    """Hold them for so long; those that have ended are left alone."""
    for sign, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0)):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, sign)
        time.sleep(pause)


def main(worker):
    """Stop the worker as it asks, until it closes its end."""
    after = math.inf
    while True:
        asked, _, _ = select.select([sys.stdin], [], [], None if after == math.inf else after)
        if asked:
            said = os.read(sys.stdin.fileno(), 65536)
            if not said:
                return
            after = float(said.split()[-1])
        else:
            others = below(worker, children())
            stop(random.choice(([worker], [worker], [random.choice(others or [worker])], [worker, *others])), LONG)
            after = math.inf


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""``make stutter``: the suite on a machine that keeps being busy with something else. It must pass all the same.

Every few seconds a process of the run, alone or with all below it, is stopped for up to a second: what a crowded build
machine does to it now and then. A test that counts on something to end within some hundred milliseconds fails here first.

usage: python tests/stutter.py [--longest SECONDS] COMMAND …
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PAUSE = (0.5, 3.0)
"""Seconds between two stops."""


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
    """All processes that one has started, and those have."""
    return [one for child in tree.get(pid, []) for one in (child, *below(child, tree))]


def stop(processes, seconds):
    """Hold them for so long; those that have ended are left alone."""
    for sign, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0)):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, sign)
        time.sleep(pause)


def main():
    """Returns the command's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--longest", type=float, default=1.0, help="seconds that a stop takes at most")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    said = parser.parse_args()
    run = subprocess.Popen(said.command)
    while run.poll() is None:
        time.sleep(random.uniform(*PAUSE))
        tree = children()
        if running := below(run.pid, tree):
            chosen = random.choice(running)
            stop([chosen, *(below(chosen, tree) if random.random() < 0.7 else ())], random.uniform(0.1, said.longest))
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())

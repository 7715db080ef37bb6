"""``gwcore run`` in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


class Serving:
    """A running gateway; a context manager. ``url`` is where, ``workers()`` are its processes' ids."""

    def __init__(self, stack: str, folder: Path, *args: str) -> None:
        self.file = folder / "stack.yaml"
        self.file.write_text(stack)
        self.file.chmod(0o600)  # it holds secrets
        self.folder = folder
        self.args = args

    def __enter__(self):
        self.log = (self.folder / "log.txt").open("ab")
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("gwcore"), "run", str(self.file), "--port", "0", *self.args],
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=self.folder,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        line = self.process.stdout.readline()
        assert " on http" in line, (line, (self.folder / "log.txt").read_text())
        self.url = line.rsplit(" on ", 1)[1].strip()
        self.wait_ready()
        return self

    def wait_ready(self, within=20.0):
        end = time.monotonic() + within
        while time.monotonic() < end:
            try:
                if urllib.request.urlopen(f"{self.url}/readyz", timeout=5).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise TimeoutError

    def workers(self):
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(timeout=30)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log.close()

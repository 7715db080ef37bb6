"""The parent of the workers: what it does with those that do not come up."""

import subprocess
import sys
import textwrap

import pytest

PARENT = """
    import os, sys, time
    from gwcore.server import workers
    workers.PAUSE, workers.UP = 0.0001, {proven}
    born = []
    def work():
        first = len(born) == 0
        {work}
    class Parent(workers.Supervisor):
        def _fork(self):
            super()._fork()
            born.append(1)
            if len(born) > 20:  # it did not give up: end it from here
                print("twenty")
                self._stop(15, None)
    sys.exit(Parent(2, work, 1.0, lambda: None).run([]))
"""


def parent(work, proven=20):
    text = textwrap.dedent(PARENT).format(work=work, proven=proven)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=50)


@pytest.mark.parametrize(
    "work", ["return 3", "time.sleep(1.2); return 3", "return 1"], ids=["at once", "late", "crash"]
)
def test_a_parent_whose_workers_never_start_gives_up_and_says_so(work):
    done = parent(work)
    assert "giving up" in done.stdout + done.stderr and "twenty" not in done.stdout
    assert done.returncode == 1


def test_it_does_not_end_the_worker_that_serves():
    done = parent("time.sleep(30) if first else time.sleep(0.02); return 3", proven=0.2)
    assert "twenty" in done.stdout and "giving up" not in done.stdout + done.stderr

"""Worker processes that begin together, forked from one that has imported everything: that is most of what a process costs."""

import asyncio
import json
import multiprocessing
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

ROOT = Path(__file__).parents[1]


async def launch(script, count, said):
    """The process of a script that calls :func:`crew`; prints ``ready``, begins at a line on its stdin."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    text = json.dumps({**said, "workers": count})
    return await asyncio.create_subprocess_exec(
        sys.executable, script, text, stdin=PIPE, stdout=PIPE, limit=1 << 26, env=environment
    )


def crew(main):
    """Prints what ``await main(said, seed, begin)`` returns in each of ``said["workers"]`` processes, as JSON, a line each.

    ``said`` is the script's argument. ``begin()`` blocks until all have called it, ``ready`` is printed and a line came on stdin.
    """
    said = json.loads(sys.argv[1])
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(said["workers"] + 1, timeout=60)

    def begin():
        gate.wait()  # all are ready
        gate.wait()  # go

    def run(seed, sender):
        sender.send(asyncio.run(main(said, seed, begin)))

    receivers = []
    for seed in range(said["workers"]):
        receiver, sender = fork.Pipe(duplex=False)
        fork.Process(target=run, args=(seed, sender)).start()
        sender.close()  # else its death would not be seen
        receivers.append(receiver)
    gate.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    gate.wait()
    for receiver in receivers:
        print(json.dumps(receiver.recv()), flush=True)

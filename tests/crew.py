"""Worker processes that begin together, forked from one that has imported everything: that is most of what a process costs."""

import json
import multiprocessing
import sys


def _run(work, seed, gate, sender):
    def begin():
        gate.wait()  # all are ready
        gate.wait()  # go

    sender.send(work(seed, begin))


def crew(work, count):
    """Prints what ``work(seed, begin)`` returns in each of so many processes, as JSON, a line each.

    ``begin()`` returns once all have called it, ``ready`` is printed and a line came on stdin.
    """
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(count + 1, timeout=60)
    receivers = []
    for seed in range(count):
        receiver, sender = fork.Pipe(duplex=False)
        fork.Process(target=_run, args=(work, seed, gate, sender)).start()
        sender.close()  # else its death would not be seen
        receivers.append(receiver)
    gate.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    gate.wait()
    for receiver in receivers:
        print(json.dumps(receiver.recv()), flush=True)

"""O1, O2, O3: a sink that hangs or is killed off under load. ``make hang HANG='--seconds 60 --rate 200 --runs 5'``.

Calls arrive at a fixed rate. Rounds alternate: the sink is well, the sink hangs. Told are p50 and p99 of both, the memory of
the gateway, what waited, how long the replay took, and whether each call was told exactly. Then ``RUNS`` times: SIGKILL while
the sink hangs, a new start, and how many calls are missing, by how long before the kill they had ended.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).parent))

from obs_serving import Serving
from obs_world import STACK, ok

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.http1 import Http1Transport
from gwcore.wire.transport import Origin, Request

BODY = orjson.dumps({"model": "fast", "messages": [{"role": "user", "content": "x" * 500}]})


class Sink(FakeUpstream):
    """Takes records, unless it hangs."""

    def __init__(self):
        super().__init__()
        self.seen = set()
        self.repeats = 0
        self.well()

    def well(self):
        self.default = self._take_records

    def hang(self):
        self.default = Answer(delay_head=3600)

    def _take_records(self, seen):
        for record in orjson.loads(seen.body):
            self.repeats += record["id"] in self.seen
            self.seen.add(record["id"])
        self.requests.clear()
        return Answer(204)


class Load:
    """Calls at a fixed rate; when each ended, and how long it took."""

    def __init__(self, url, rate):
        self.origin = Origin.of(url)
        self.transport = Http1Transport()
        self.rate = rate
        self.ended = {}

    async def call(self, took):
        began = time.perf_counter()
        headers = [(b"content-type", b"application/json")]
        try:
            response = await self.transport.send(Request("POST", self.origin, "/v1/chat/completions", headers, BODY))
            while await response.read():
                pass
            response.close()
        except Exception:
            return
        id_ = next(v for k, v in response.headers if k == b"x-gwcore-request-id").decode()
        assert response.status == 200, response.status
        self.ended[id_] = time.time()
        took.append(time.perf_counter() - began)

    async def run(self, seconds):
        took, tasks, start = [], set(), time.perf_counter()
        for n in range(int(seconds * self.rate)):
            await asyncio.sleep(max(0, start + n / self.rate - time.perf_counter()))
            task = asyncio.create_task(self.call(took))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        return sorted(took)


def at(sorted_, share):
    return sorted_[int(len(sorted_) * share)] * 1000


def memory(serving):
    status = Path(f"/proc/{serving.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def stack_of(up, sink, folder, durable):
    outbox = f"{{folder: {folder}/spill, durable: {durable}}}"
    watch = f"  - prometheus: {{}}\n  - access_log: {{to: {folder}/access.log}}\n"
    watch += f'  - webhook: {{url: "{sink.url}/hook", outbox: {outbox}}}'
    return STACK.format(up=up.url, stack="", watch=watch)


async def hanging(seconds, rate, rounds, folder):
    async with FakeUpstream() as up, Sink() as sink:
        up.default = lambda _seen: (up.requests.clear(), ok())[1]
        serving = Serving(stack_of(up, sink, folder, "false"), folder)
        await asyncio.to_thread(serving.__enter__)
        try:
            load = Load(serving.url, rate)
            await load.run(5)
            before = memory(serving)
            well, ill, peak = [], [], before
            for _ in range(rounds):
                sink.well()
                well += await load.run(seconds / rounds)
                sink.hang()
                ill += await load.run(seconds / rounds)
                peak = max(peak, memory(serving))
            sink.well()
            back = time.perf_counter()
            while len(sink.seen) < len(load.ended) and time.perf_counter() - back < 60:
                await asyncio.sleep(0.1)
            replay = time.perf_counter() - back
            well.sort(), ill.sort()
            print(f"well   p50 {at(well, 0.5):6.2f} ms   p99 {at(well, 0.99):6.2f} ms   of {len(well)}")
            print(f"hangs  p50 {at(ill, 0.5):6.2f} ms   p99 {at(ill, 0.99):6.2f} ms   of {len(ill)}")
            print(f"memory {before:.0f} MiB before, {peak:.0f} MiB at most")
            missing = set(load.ended) - sink.seen
            print(
                f"told   {len(sink.seen)} of {len(load.ended)}, {len(missing)} missing, {sink.repeats} twice; replay {replay:.1f} s"
            )
            return not missing
        finally:
            await asyncio.to_thread(serving.__exit__)


async def killed(rate, folder, durable, n):
    async with FakeUpstream() as up, Sink() as sink:
        up.default = lambda _seen: (up.requests.clear(), ok())[1]
        sink.hang()
        stack = stack_of(up, sink, folder, durable)
        serving = Serving(stack, folder)
        await asyncio.to_thread(serving.__enter__)
        load = Load(serving.url, rate)
        running = asyncio.create_task(load.run(4))
        await asyncio.sleep(2 + (n * 0.37) % 1.5)
        serving.process.send_signal(signal.SIGKILL)
        at_kill = time.time()
        await running
        await asyncio.to_thread(serving.__exit__)
        sink.well()
        again = Serving(stack, folder)
        await asyncio.to_thread(again.__enter__)
        settled = time.monotonic()
        count = -1
        while count != len(sink.seen) or time.monotonic() - settled < 3:
            if count != len(sink.seen):
                count, settled = len(sink.seen), time.monotonic()
            await asyncio.sleep(0.2)
        await asyncio.to_thread(again.__exit__)
        missing = [at_kill - load.ended[id_] for id_ in set(load.ended) - sink.seen]
        oldest = max(missing, default=0.0)
        print(
            f"killed durable={durable}: {len(load.ended)} calls, {len(missing)} missing, the oldest ended {oldest:.2f} s before"
        )
        return oldest <= 1.0 and not (durable == "true" and missing)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    good = []
    with tempfile.TemporaryDirectory() as name:
        good.append(await hanging(args.seconds, args.rate, args.rounds, Path(name)))
    for durable in ("false", "true"):
        for n in range(args.runs):
            with tempfile.TemporaryDirectory() as name:
                good.append(await killed(args.rate, Path(name), durable, n))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

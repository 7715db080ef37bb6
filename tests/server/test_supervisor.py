"""The parent of several workers: what it does about signals that reach everybody, and about workers that cannot start."""

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from gwcore import log, serving
from gwcore.errors import BadConfig
from gwcore.server import EdgeLimits
from gwcore.server.run import fitting
from gwcore.server.workers import Supervisor
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream
from tests.stacks.raw import exchange
from tests.test_cli import GOOD, Serving

OPEN = """
gwcore: 1
upstreams: {{demo: {{provider: demo}}}}
models: {{house: demo/demo}}
server: {{host: "{host}", drain: 5s}}
stack: [{guard}]
"""
GUARD = 'auth: {admin_key: "${GWCORE_ADMIN_KEY}"}'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_every_process_drains(tmp_path, number):
    """A terminal's Ctrl-C and systemd's stop reach the workers, too, to whom the parent passes it on."""
    async with FakeUpstream() as up:
        up.default = Answer(body=chat_stream(*["word "] * 15), gap=0.1)
        file = tmp_path / "stack.yaml"
        file.write_text(
            f"gwcore: 1\nupstreams: {{a: {{provider: openai-compatible, base_url: {up.url}}}}}\nstack: []\n"
        )
        with Serving(file, "--workers", "2") as gateway:
            body = json.dumps({"model": "a/m", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
            calls = [
                asyncio.create_task(exchange(gateway.url, "POST", "/v1/chat/completions", body.encode()))
                for _ in range(4)
            ]
            await up.received(4)
            for pid in gateway.workers():
                os.kill(pid, number)
            await asyncio.sleep(0.3)  # signals that are pending together are one
            gateway.process.send_signal(number)
            seen = await asyncio.gather(*calls)
            assert all(one.body.endswith(b"data: [DONE]\n\n") for one in seen)
            assert await asyncio.to_thread(gateway.process.wait, 10) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_file_that_others_take_the_place_of_is_watched_on(tmp_path, workers):
    """As editors save and Kubernetes swaps: what is watched is a name, not what it first stood for."""
    for version in range(3):
        (tmp_path / f"v{version}").mkdir()
        (tmp_path / f"v{version}/stack.yaml").write_text(GOOD.replace("house:", f"v{version}:"))
    (tmp_path / "data").symlink_to("v0")
    with Serving(tmp_path / "data/stack.yaml", "--workers", workers, "--watch") as gateway:
        (tmp_path / "new").symlink_to("v1")
        (tmp_path / "new").replace(tmp_path / "data")
        assert gateway.until(lambda health: health["models"] == ["v1"])
        for name in ("once", "again"):
            (tmp_path / "new").write_text(GOOD.replace("house:", f"{name}:"))
            (tmp_path / "new").replace(tmp_path / "v1/stack.yaml")
            assert gateway.until(lambda health, name=name: health["models"] == [name])


def supervised(script, *, count=2, check="lambda: None", until=None):
    """Exit code and log of a supervisor whose workers run ``work()`` of a script; ``until`` is logged before SIGTERM."""
    text = f"""
import os, signal, sys, tempfile, time
from pathlib import Path
from gwcore.server import workers
pause = time.sleep
workers.time.sleep = lambda seconds: pause(min(seconds, 0.02))
{textwrap.dedent(script)}
sys.exit(workers.Supervisor({count}, work, 5.0, {check}).run([]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", text], stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    said = ""
    if until is not None:
        while until not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        process.terminate()
    rest, _ = process.communicate(timeout=30)
    return process.returncode, said + rest


def test_gives_up_where_no_worker_starts_and_says_so_by_its_exit_code():
    code, said = supervised("work = lambda: 3")
    assert code == 1 and said.count("worker ended") == 11 and "giving up" in said


def test_a_worker_that_starts_slowly_and_fails_counts_as_one_that_failed():
    code, said = supervised("def work():\n    pause(1.05)\n    return 3", count=6)
    assert code == 1 and "giving up" in said


def test_those_that_serve_go_on_where_another_cannot_start():
    """A store that is away for a minute must not end what still serves."""
    code, said = supervised(
        """
        workers.UP, workers.PAUSE = 0.0, 0.0001
        first = Path(tempfile.mkdtemp()) / "first"
        def work():
            try:
                first.touch(exist_ok=False)
            except FileExistsError:
                pause(0.05)
                count = int(first.read_text() or 0) + 1
                first.write_text(str(count))
                if count == 25:
                    print("tried often", flush=True)
                return 3
            signal.signal(signal.SIGTERM, lambda *_: (first.unlink(), os._exit(0)))
            while True:
                pause(0.1)
        """,
        until="tried often",
    )
    assert code == 0 and "giving up" not in said


def test_sigterm_between_two_tries_ends_it():
    began = time.monotonic()
    code, _ = supervised(
        """
        workers.time.sleep = lambda seconds: pause(1.0 if seconds > 0.06 else 0.02)
        def work():
            print("tried", flush=True)
            return 3
        """,
        count=1,
        until="tried",
    )
    assert code == 0 and time.monotonic() - began < 8  # not after the drain of a worker that never heard of it


def test_outlives_a_check_that_raises_and_a_status_that_cannot_be_written():
    code, said = supervised(
        """
        def work():
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            os.kill(os.getppid(), signal.SIGHUP)
            while True:
                pause(0.1)
        def check():
            Path(os.environ["GWCORE_STATUS_FILE"]).with_suffix(".new").mkdir()
            raise TypeError
        """,
        count=1,
        check="check",
        until="reload refused",
    )
    assert code == 0 and "TypeError while reading it" in said


def served(monkeypatch, file, host, workers):
    """What ``gwcore run`` would serve, and what it asks before a reload."""
    caught = {}

    def catch(make, **settings):
        caught.update(settings, make=make)
        return 0

    monkeypatch.setattr(log, "setup", lambda: None)
    monkeypatch.setenv("GWCORE_WORKERS", "1")
    monkeypatch.setattr(serving, "serve", catch)
    monkeypatch.setattr(serving, "serve_workers", catch)
    serving.serve_stack(file, host=host, port=0, workers=workers, watch=False)
    return caught["make"](), caught.get("check")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("guard", ["fallback", "auth: {open: true}"])
@pytest.mark.parametrize(
    ("host", "written", "now"), [("0.0.0.0", "127.0.0.1", "127.0.0.1"), (None, "0.0.0.0", "127.0.0.1")]
)
async def test_no_reload_opens_what_a_start_would_not(tmp_path, monkeypatch, workers, guard, host, written, now):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GWCORE_ADMIN_KEY", os.urandom(32).hex())
    file = tmp_path / "stack.yaml"
    file.write_text(OPEN.format(host=written, guard=GUARD))
    gateway, check = served(monkeypatch, file, host, workers)
    async with gateway:
        digest = gateway.stack.digest
        file.write_text(OPEN.format(host=now, guard=guard))
        assert not await gateway.reload()
        assert "refusing to listen on 0.0.0.0" in gateway.state.reload_error
        assert gateway.stack.digest == digest
        if check is not None:
            assert "refusing to listen on 0.0.0.0" in check()


async def test_what_waits_for_the_next_start_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "stack.yaml"
    file.write_text(OPEN.format(host="127.0.0.1", guard=""))
    gateway, _ = served(monkeypatch, file, None, 1)
    async with gateway:
        file.write_text(file.read_text().replace("drain: 5s", "port: 1, drain: 6s, max_inflight: 7"))
        assert await gateway.reload()
        said = capsys.readouterr()
        assert "['port', 'drain']" in said.out + said.err
        assert gateway.load is not None and gateway.stack.server.max_inflight == 7


async def test_a_reload_that_is_refused_takes_nothing(tmp_path, monkeypatch):
    """Else what it opened, and what a later one needs no more, would stay open."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "stack.yaml"
    file.write_text(OPEN.format(host="127.0.0.1", guard="cache, fallback"))
    gateway, _ = served(monkeypatch, file, None, 1)
    async with gateway:
        before = dict(gateway.resources.users)
        file.write_text(file.read_text().replace("cache, fallback", "fallback, fallback"))
        assert not await gateway.reload()
        assert gateway.resources.users == before


async def test_a_worker_that_is_restarted_begins_with_what_was_accepted_last(tmp_path, monkeypatch):
    """A mistake in a file whose reload was refused kept workers from coming back, until none was left."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "stack.yaml"
    text = OPEN.format(host="127.0.0.1", guard="")
    file.write_text(text)
    caught = {}
    monkeypatch.setattr(log, "setup", lambda: None)
    monkeypatch.setenv("GWCORE_WORKERS", "1")
    monkeypatch.setattr(serving, "serve_workers", lambda make, **settings: caught.update(settings, make=make) or 0)
    serving.serve_stack(file, host=None, port=0, workers=2, watch=False)
    file.write_text(text + "nonsense: 1\n")
    assert "nonsense" in caught["check"]()
    async with caught["make"]() as gateway:
        first = gateway.stack.digest
        assert not await gateway.reload()
        file.write_text(text.replace("house", "home"))
        assert caught["check"]() is None
        assert await gateway.reload()
        second = gateway.stack.digest
        assert second != first
    file.unlink()
    assert caught["check"]() is not None
    async with caught["make"]() as gateway:
        assert gateway.stack.digest == second


TWICE = """
import asyncio, sys
from gwcore.server import EdgeLimits, serve
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await asyncio.sleep(60)
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("closed", flush=True)
    await send({"type": "lifespan.shutdown.complete"})
print(serve(lambda: app, host="127.0.0.1", port=0, limits=EdgeLimits(), on_ready=lambda url: print(url, flush=True)))
"""


def test_a_second_signal_ends_at_once_and_what_is_held_is_closed_all_the_same():
    command = [sys.executable, "-c", TWICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(4096)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            said, wrong = process.communicate(timeout=10)
    assert said.split() == ["closed", "0"] and "Traceback" not in wrong


@pytest.mark.parametrize(
    ("most", "files", "fits"),
    [(20_000, 1_048_576, 20_000), (20_000, 1024, 464), (100, 1024, 100), (5, 10, 1), (9, resource.RLIM_INFINITY, 9)],
)
def test_no_more_connections_than_files_to_carry_them(most, files, fits):
    assert fitting(EdgeLimits(max_connections=most), files).max_connections == fits


@pytest.mark.parametrize(("late", "killed"), [(6, False), (19, False), (21, True)])
def test_a_worker_may_close_what_it_holds_behind_its_drain(monkeypatch, late, killed):
    """Two sinks that hang took it longer than it had: it was killed before the ledger heard that it left."""
    sent = []
    parent = Supervisor(2, work=lambda: 0, drain=30.0, check=lambda: None)
    for end in parent.alive:
        os.close(end)
    parent.pids = {12345: 0.0}
    monkeypatch.setattr("gwcore.server.workers.os.kill", lambda pid, number: sent.append((pid, number)))
    parent.stopping_since = time.monotonic() - 30 - late
    parent._kill_late()
    assert sent == ([(12345, signal.SIGKILL)] if killed else [])


def test_nowhere_to_write_is_a_sentence(monkeypatch):
    """A read-only root file system without a /tmp."""
    parent = Supervisor(2, work=lambda: 0, drain=30.0, check=lambda: None)
    for end in parent.alive:
        os.close(end)

    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("gwcore.server.workers.tempfile._get_default_tempdir", nowhere)
    monkeypatch.setattr("gwcore.server.workers.tempfile.tempdir", None)
    with pytest.raises(BadConfig, match="No usable temporary directory found; mount a /tmp"):
        parent.run([])

"""The commands as a user runs them: exit codes, sentences instead of tracebacks."""

import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import typer

from gwcore import __version__
from gwcore.assemble import assemble
from gwcore.catalog import VERBS, Catalog
from gwcore.cli import main
from gwcore.errors import BadConfig
from gwcore.remote import ask, table
from gwcore.resources import Resources
from gwcore.serving import _announce, servable
from gwcore.show import rings
from gwcore.stackfile import StackErrors
from gwcore.template import create_plugin

ROOT = Path(__file__).parent.parent
GWCORE = str(Path(sys.executable).with_name("gwcore"))
GOOD = "gwcore: 1\nupstreams:\n  demo: {provider: demo}\nmodels:\n  house: demo/demo\nstack: []\n"


def run(*arguments, env=None):
    return subprocess.run(
        [GWCORE, *map(str, arguments)], capture_output=True, text=True, check=False, env=env, timeout=50
    )


@pytest.fixture
def stack(tmp_path):
    file = tmp_path / "stack.yaml"
    file.write_text(GOOD)
    return file


def test_check_prints_both_rings():
    done = run("check", ROOT / "examples/quickstart/stack.yaml")
    assert done.returncode == 0, done.stderr
    assert "once per call" in done.stdout and "once per attempt" in done.stdout and "demo" in done.stdout


def test_check_tells_of_a_missing_key(tmp_path):
    file = tmp_path / "stack.yaml"
    file.write_text("gwcore: 1\nupstreams: {groq: {provider: groq}, own: {provider: groq, api_key: k}}\nstack: []\n")
    done = run("check", file)
    assert done.returncode == 0 and "no key  groq" in done.stdout and "GROQ_API_KEY" in done.stdout
    assert "no key  own" not in done.stdout


@pytest.mark.parametrize(
    ("entry", "doubt"),
    [
        ("provider: openai, base_url: 'https://api.openai.com'", "base_url usually ends in /v1"),
        ("provider: anthropic, base_url: 'https://api.anthropic.com/v1'", "leave /v1 out of base_url"),
        ("provider: openai-compatible, base_url: 'http://x/v1/chat/completions'", "leave /chat/completions out"),
        ("provider: gemini, base_url: 'http://x/v1beta'", "asks http://x/v1beta/v1beta/models/MODEL:generateContent;"),
        ("provider: openai-compatible, base_url: 'http://x'", None),
        ("provider: openai, base_url: 'http://x/proxy/openai'", None),
        ("provider: anthropic", None),
        ("provider: vertex, project: p, location: l", None),
    ],
)
def test_check_tells_of_an_address_that_its_provider_would_not_have(entry, doubt, capsys):
    made = assemble(f"gwcore: 1\nupstreams: {{up: {{{entry}, api_key: k}}}}\nstack: []\n", Catalog(), Resources(), {})
    rings(made, Path("stack.yaml"))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("address  ")]
    assert len(said) == (doubt is not None) and (doubt is None or doubt in said[0])


def test_every_upstream_without_an_address_is_named_with_its_line():
    text = "gwcore: 1\nupstreams:\n  a: {provider: azure, api_key: k}\n  b: {provider: openai-compatible}\nstack: []\n"
    with pytest.raises(StackErrors) as caught:
        assemble(text, Catalog(), Resources(), {})
    assert [(p.line, p.where) for p in caught.value.problems] == [
        (3, "upstreams.a.provider"),
        (4, "upstreams.b.provider"),
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [("127.0.0.1:4000", "write http://host:port"), ("http://127.0.0.1:9", "refused; --url or GWCORE_URL says where")],
)
def test_an_address_without_a_gateway_is_a_sentence_with_a_way_out(url, said, monkeypatch, capsys):
    monkeypatch.setenv("GWCORE_ADMIN_KEY", "k")
    with pytest.raises(typer.Exit):
        ask(url, "GET", "/key/list")
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["class", "none"])
def test_a_word_of_python_names_no_plugin(name, tmp_path):
    with pytest.raises(BadConfig, match="a keyword of Python"):
        create_plugin(name, tmp_path)


def test_check_refuses_what_run_would_refuse(tmp_path):
    file = tmp_path / "stack.yaml"
    file.write_text(GOOD.replace("stack: []", f"stack: [{{auth: {{admin_key: {secrets.token_hex(32)}}}}}]"))
    file.chmod(0o644)
    done = run("check", file)
    assert done.returncode == 1 and "every user of this machine can read it" in done.stderr
    file.chmod(0o600)
    assert run("check", file).returncode == 0


def test_check_names_what_stands_around_everything(tmp_path):
    file = tmp_path / "stack.yaml"
    file.write_text(GOOD + 'asgi: ["starlette.middleware.gzip:GZipMiddleware"]\n')
    command = [sys.executable, "-m", "gwcore", "check", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0 and "around everything  starlette.middleware.gzip:GZipMiddleware" in done.stdout


def test_check_names_every_problem(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("gwcore: 1\nupstreams:\n  demo: {provider: demmo}\nstack: [auht]\nserver: {prot: 1}\n")
    done = run("check", file)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{file.name}:3:" in done.stderr and "demo" in done.stderr
    assert "did you mean auth" in done.stderr and "did you mean port" in done.stderr


def test_a_store_that_does_not_answer_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    stack, place = tmp_path / "stack.yaml", f"sqlite:///{tmp_path}/file/book.db"
    stack.write_text(GOOD.replace("stack: []", "stack: [{budget: {store: book}}]") + f"stores: {{book: '{place}'}}\n")
    done = run("run", stack, "--port", "0")
    assert done.returncode == 3 and "Traceback" not in done.stdout + done.stderr
    assert f"budget: the store {place} does not answer: FileExistsError" in done.stdout + done.stderr


def test_a_store_that_is_away_at_start_is_a_sentence(tmp_path):
    file = tmp_path / "stack.yaml"
    book = "postgresql://u:p@127.0.0.1:1/x"
    guard = "auth: {admin_key: '${GWCORE_ADMIN_KEY}'}"
    file.write_text(GOOD.replace("stack: []", f"stores: {{book: '{book}'}}\nstack: [{guard}]"))
    done = run("run", file, "--port", "0", env={**os.environ, "GWCORE_ADMIN_KEY": secrets.token_hex(32)})
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "cannot start: auth: the store postgresql://127.0.0.1:1/x does not answer" in done.stderr


def test_who_sends_no_http_writes_no_log(tmp_path):
    """Whoever can connect could fill a disk with it."""
    stack = tmp_path / "stack.yaml"
    stack.write_text(GOOD)
    command = [GWCORE, "run", str(stack), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = int(next(line for line in process.stdout if "serves" in line).rpartition(":")[2])
            for odd in (b"no http\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(odd)
                    assert b"400" in client.recv(100)
        finally:
            process.terminate()
        assert process.communicate(timeout=20)[1] == ""


def test_several_workers_do_not_say_that_they_serve_before_one_does(tmp_path):
    (tmp_path / "file").touch()
    stack, place = tmp_path / "stack.yaml", f"sqlite:///{tmp_path}/file/book.db"
    stack.write_text(GOOD.replace("stack: []", "stack: [{budget: {store: book}}]") + f"stores: {{book: '{place}'}}\n")
    command = [GWCORE, "run", str(stack), "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert any("worker ended" in line for line in process.stderr)
        finally:
            process.terminate()
        assert "serves" not in process.communicate(timeout=20)[0]


def test_a_verb_whose_distribution_is_missing_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(Catalog, "load_all", lambda _self: {})
    with pytest.raises(SystemExit) as ended:
        main(["keys", "list"])
    assert ended.value.code == 2 and "pip install gwcore-auth" in capsys.readouterr().err


def test_the_verbs_of_ours_are_known():
    catalog = Catalog()
    catalog.load_all()
    assert {verbs.info.name for verbs in catalog.commands()} == VERBS.keys()


@pytest.mark.parametrize("verb", [["check"], ["run"], ["explain", "--request", "x"]])
def test_a_missing_file_is_a_sentence(verb):
    done = run(verb[0], "/no/such.yaml", *verb[1:])
    assert done.returncode == 1 and "no such file" in done.stderr and "Traceback" not in done.stderr


def test_explain_shows_the_upstream_request_and_hides_secrets(tmp_path):
    stack, body = tmp_path / "s.yaml", tmp_path / "b.json"
    stack.write_text("gwcore: 1\nupstreams:\n  a: {provider: openai, api_key: sk-canary-canary}\nstack: [tokencount]\n")
    body.write_text('{"model": "a/gpt-5", "messages": []}')
    done = run("explain", stack, "--request", body)
    assert done.returncode == 0, done.stderr
    assert "POST https://api.openai.com/v1/chat/completions" in done.stdout and '"gpt-5"' in done.stdout
    assert "tokencount" in done.stdout and "nothing was sent" in done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_plugins_and_schema():
    listed = run("plugins")
    assert listed.returncode == 0 and "gwcore-providers" in listed.stdout and "anthropic.messages" in listed.stdout
    schema = json.loads(run("schema").stdout)
    assert "upstreams" in json.dumps(schema) and "tokencount" in json.dumps(schema)


def test_version():
    told = run("--version")
    assert told.returncode == 0 and told.stdout.split() == [
        "gwcore",
        f"{__version__},",
        "Python",
        platform.python_version(),
    ]


def test_tables_are_whole_and_money_is_plain(capsys):
    id_, address = "k" * 90, "https://a-very-long-name.of-a-server.example.com/with/a/path/that/goes/on/and/on/v1"
    table(
        [{"token": id_, "spend": 0.00003525, "max_budget": 50.0, "models": []}],
        "token",
        "spend",
        "max_budget",
        "models",
    )
    assert capsys.readouterr().out.splitlines()[1].split() == [id_, "0.00003525", "50"]
    stack = f"gwcore: 1\nupstreams: {{a: {{provider: openai-compatible, base_url: '{address}'}}}}\nstack: []\n"
    rings(assemble(stack, Catalog(), Resources(), {}), Path("stack.yaml"))
    assert address in capsys.readouterr().out


def test_names_that_clients_type_write_nothing_else_on_a_terminal(capsys):
    table([{"model": "up/\x1b[31mred\nX\x9b2J", "spend": 1.0}, {"model": "größe 漢字", "spend": 2.0}], "model", "spend")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["up/\\x1b[31mred\\nX\\x9b2J", "größe"]


def test_help_names_the_verbs():
    text = run("--help").stdout
    assert all(verb in text for verb in ("run", "check", "explain", "plugins", "schema", "new"))


def test_a_new_provider_passes_the_kit_at_once(tmp_path):
    assert run("new", "provider", "my_vendor", "--into", tmp_path).returncode == 0
    folder = tmp_path / "gwcore-my-vendor"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
    )
    assert done.returncode == 0 and "9 passed" in done.stdout, done.stdout


def test_a_new_plugin_passes_the_kit_at_once(tmp_path):
    folder = create_plugin("my_stamp", tmp_path)
    env = {**os.environ, "PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        capture_output=True, text=True, check=False, env=env, cwd=folder, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    again = run("new", "plugin", "my_stamp", "--into", tmp_path)
    assert again.returncode == 1 and "exists" in again.stderr
    assert run("new", "plugin", "My-Stamp", "--into", tmp_path).returncode == 1


@pytest.mark.parametrize("guarded", [True, False])
def test_the_curl_that_run_prints_has_a_key_where_one_is_asked_for(guarded, stack, monkeypatch, capsys):
    monkeypatch.setenv("ADMIN", secrets.token_hex(32))
    if guarded:
        stack.write_text(GOOD.replace("[]", '[auth: {admin_key: "${ADMIN}"}]'))
    _announce(stack, servable(stack), "http://x")
    assert ("-H 'authorization: Bearer YOUR_KEY'" in capsys.readouterr().out) is guarded


def test_open_gateway_only_on_loopback(stack):
    done = run("run", stack, "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1 and "without auth" in done.stderr


class Serving:
    """``gwcore run`` as a process; ``url`` is what it printed."""

    def __init__(self, stack, *options):
        self.process = subprocess.Popen(
            [GWCORE, "run", str(stack), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self):
        self.url = self.process.stdout.readline().split()[-1]
        for _ in range(200):
            try:
                self.get("/health")
                return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError("not serving after 10 s")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def workers(self):
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return json.load(answer)

    def chat(self):
        body = json.dumps({"model": "house", "messages": [{"role": "user", "content": "hi"}]}).encode()
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status

    def until(self, condition):
        for _ in range(200):
            if condition(self.get("/health")):
                return True
            time.sleep(0.05)
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serves_reloads_and_drains(stack, workers):
    with Serving(stack, "--workers", workers) as gateway:
        assert gateway.chat() == 200
        stack.write_text(GOOD.replace("house: demo/demo", "house: demo/demo\n  second: demo/demo"))
        gateway.process.send_signal(signal.SIGHUP)
        failed = [status for _ in range(100) if (status := gateway.chat()) != 200]
        assert not failed and gateway.until(lambda health: "second" in health["models"])
        stack.write_text("gwcore: 1\nupstreams: {demo: {provider: nobody}}\n")
        gateway.process.send_signal(signal.SIGHUP)
        assert gateway.until(lambda health: health["config"]["config_reload_failed"] == 1)
        assert gateway.chat() == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(15) == 0


def test_watch_reloads(stack):
    with Serving(stack, "--watch") as gateway:
        time.sleep(0.5)
        stack.write_text(GOOD.replace("house:", "other: demo/demo\n  house:"))
        assert gateway.until(lambda health: "other" in health["models"])


def test_a_dead_worker_is_replaced(stack):
    with Serving(stack, "--workers", "2") as gateway:
        first, second = gateway.workers()
        os.kill(first, signal.SIGKILL)
        for _ in range(100):
            now = gateway.workers()
            if len(now) == 2 and first not in now:
                break
            time.sleep(0.05)
        assert len(now) == 2 and first not in now and second in now and gateway.chat() == 200


def ended(pid):
    """Whether a process is gone, or waits for whoever adopted it to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_workers_end_with_a_parent_that_is_killed(stack):
    with Serving(stack, "--workers", "2") as gateway:
        workers = gateway.workers()
        assert len(workers) == 2 and not any(map(ended, workers))
        gateway.process.kill()
        for _ in range(200):
            if all(map(ended, workers)):
                break
            time.sleep(0.05)
        assert all(map(ended, workers))


def test_start_is_lean(stack):
    code = (
        "import sys, asyncio\nfrom gwcore.gateway import Gateway\n"
        f"async def main():\n    async with Gateway({str(stack)!r}): pass\n"
        "asyncio.run(main())\n"
        "dear = {'openai', 'anthropic', 'google.genai', 'httpx', 'httpx2', 'redis', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not dear, dear\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr


def test_what_a_verb_prints_is_its_own_and_what_it_logs_goes_to_stderr():
    """Whoever reads its output as CSV or JSON must not meet a line of the log, nor anybody a secret in it."""
    code = "import atexit, structlog; from gwcore.cli import main; atexit.register(lambda: structlog.get_logger().error('told')); main()"
    command = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout.startswith("gwcore ") and done.stdout.count("\n") == 1
    assert '"event":"told"' in done.stderr


def test_python_m_gwcore_has_the_verbs_of_distributions():
    command = [sys.executable, "-m", "gwcore", "ledger", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "gwcore ledger" in done.stdout

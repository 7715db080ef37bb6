"""S15, I6: what refuses to start, and that a start shows no secret. And the command line against a running gateway."""

import asyncio
import json
import logging
import os
import re
import secrets
import socket
import sys
import traceback
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
from auth_world import ADMIN, serving, stack_text
from sqlalchemy import select
from typer.testing import CliRunner

from gwcore.errors import BadConfig
from gwcore.gateway import Gateway
from gwcore.serving import serve_stack
from gwcore.sql import reading
from gwcore_auth import cli
from gwcore_auth.keys import mint
from gwcore_auth.tables import metadata

GWCORE = str(Path(sys.executable).with_name("gwcore"))
UPSTREAM = "upstreams: {d: {provider: demo}}\n"


def written(tmp_path, auth, mode):
    file = tmp_path / "stack.yaml"
    stores = f"stores: {{book: 'sqlite:///{tmp_path}/book.db'}}\n"
    file.write_text(f"gwcore: 1\n{stores}{UPSTREAM}stack: [{{auth: {json.dumps(auth)}}}]\n")
    file.chmod(mode)
    return file


async def run(file, **env):
    """``gwcore run`` until it says where it listens, or ends: the address or ``None``, and all that was written."""
    process = await asyncio.create_subprocess_exec(
        *(GWCORE, "run", str(file), "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**{k: v for k, v in os.environ.items() if k != "GWCORE_ADMIN_KEY"}, **env},
    )
    seen = b""
    try:
        while line := await process.stdout.readline():
            seen += line
            if b" on http://" in line:
                return line.decode().split()[-1], seen.decode()
        return None, seen.decode()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def started(file, **env):
    """The same while it serves: address, process, and a list whose first item will be what was written."""
    said = []
    with (file.parent / "said").open("w+b") as log:
        process = await asyncio.create_subprocess_exec(
            *(GWCORE, "run", str(file), "--port", "0"), stdout=log, stderr=log, env={**os.environ, **env}
        )
        try:
            while not (found := re.search(rb"on (http://\S+)", Path(log.name).read_bytes())):
                assert process.returncode is None, Path(log.name).read_text()
                await asyncio.sleep(0.05)
            yield found[1].decode(), process, said
        finally:
            process.terminate()
            await process.wait()
            said.insert(0, Path(log.name).read_text())


KEY = "${GWCORE_ADMIN_KEY}"
REFUSED = {
    "nothing": ({}, {}, "has no admin_key"),
    "unset": ({"admin_key": KEY}, {}, "GWCORE_ADMIN_KEY"),
    "empty": ({"admin_key": KEY}, {"GWCORE_ADMIN_KEY": ""}, "GWCORE_ADMIN_KEY"),
    "quickstart": ({"admin_key": KEY}, {"GWCORE_ADMIN_KEY": "sk-1234"}, "example"),
    "short": ({"admin_key": KEY}, {"GWCORE_ADMIN_KEY": "canary-9f8e7d6c"}, "32"),
    "dull": ({"admin_key": KEY}, {"GWCORE_ADMIN_KEY": "ab" * 20}, "different characters"),
    "placeholder": ({"admin_key": KEY}, {"GWCORE_ADMIN_KEY": "your-api-key-changeme-0123456789abcdef"}, "example"),
    "weak pepper": ({"admin_key": KEY, "pepper": "sk-1234"}, {"GWCORE_ADMIN_KEY": ADMIN}, "example"),
    "weak declared key": ({"admin_key": KEY, "keys": {"a": {"secret": "sk-1234"}}}, {"GWCORE_ADMIN_KEY": ADMIN}, "example"),
    "digest of an example": ({"admin_key": KEY, "keys": {"a": {"sha256": sha256(b"test").hexdigest()}}}, {"GWCORE_ADMIN_KEY": ADMIN}, "example"),
}  # fmt: skip


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Why a start is refused; one that is not never ends."""

    def start(auth, host=None, mode=0o600, **env):
        monkeypatch.delenv("GWCORE_ADMIN_KEY", raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(BadConfig) as caught:
            serve_stack(written(tmp_path, auth, mode), host=host, port=0, workers=1, watch=False)
        return "".join(traceback.format_exception(caught.value))

    return start


@pytest.mark.parametrize("name", REFUSED)
def test_s15_it_does_not_start(refused, name):
    auth, env, says = REFUSED[name]
    said = refused(auth, **env)
    assert says in said and "canary" not in said and "changeme" not in said


async def test_s15_a_strong_key_starts_and_is_not_shown(tmp_path):
    """The control."""
    address, said = await run(written(tmp_path, {"admin_key": KEY}, 0o644), GWCORE_ADMIN_KEY=ADMIN)
    assert address is not None and ADMIN not in said


async def test_s15_a_published_file_must_not_hold_the_key(refused, tmp_path):
    said = refused({"admin_key": ADMIN}, mode=0o644)
    assert "every user of this machine" in said and ADMIN not in said
    assert (await run(written(tmp_path, {"admin_key": ADMIN}, 0o640)))[0] is not None


DEBUGGING = ["PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "SSLKEYLOGFILE"]


@pytest.mark.parametrize("switch", DEBUGGING)
def test_s15_it_does_not_start_with_debugging_on_where_others_reach_it(refused, monkeypatch, switch):
    for name in DEBUGGING:
        monkeypatch.delenv(name, raising=False)
    said = refused({"admin_key": KEY}, host="0.0.0.0", GWCORE_ADMIN_KEY=ADMIN, **{switch: "/dev/null"})
    assert switch in said and "writes down what clients send" in said and ADMIN not in said


async def test_s15_on_this_machine_alone_debugging_starts_and_no_core_is_dumped(tmp_path):
    """The control; and at the most talkative level neither key nor prompt is written, whatever fails."""
    file = written(tmp_path, {"admin_key": KEY}, 0o600)
    file.write_text(
        file.read_text().replace("provider: demo", "provider: openai-compatible, base_url: 'http://127.0.0.1:9/v1'")
    )
    env = {"GWCORE_ADMIN_KEY": ADMIN, "PYTHONASYNCIODEBUG": "1", "GWCORE_LOG_LEVEL": "debug"}
    async with started(file, **env) as (address, process, said):
        limits = Path(f"/proc/{process.pid}/limits")
        if limits.exists():
            assert re.search(r"^Max core file size +0 +0 ", limits.read_text(), re.MULTILINE)
        async with httpx2.AsyncClient(base_url=address, trust_env=False) as http:
            for key in (ADMIN, mint()):
                headers = {"authorization": f"Bearer {key}"}
                body = {"model": "m", "messages": [{"role": "user", "content": "prompt-canary-7d1f"}]}
                refusal = await http.post("/v1/chat/completions", json=body, headers=headers)
                assert refusal.status_code >= 400 and key not in refusal.text
                assert (await http.post("/key/generate", json={"key": 3}, headers=headers)).status_code >= 400
                said.append(key)
    seen = said.pop(0)
    assert "on http://" in seen and not [secret for secret in (*said, "prompt-canary") if secret in seen]


async def test_i6_open_is_for_this_machine_alone(refused, tmp_path):
    assert "this machine alone" in refused({"open": True}, host="0.0.0.0")
    assert (await run(written(tmp_path, {"open": True}, 0o644)))[0] is not None


async def test_i6_an_open_gateway_serves_no_proxy_and_no_stranger(upstream):
    text = stack_text(upstream.url).replace(f"admin_key: {ADMIN}", "open: true")
    async with serving(text) as api:
        assert (await api.chat(None)).status_code == 200
        assert (await api.chat("sk-whatever-the-sdk-insists-on")).status_code == 200
        for header in ("x-forwarded-for", "forwarded", "x-real-ip", "via"):
            assert (await api.chat(None, headers={header: "127.0.0.1"})).status_code == 403
        for path in ("/key/list", "/openapi.json"):
            assert (await api.raw("GET", path, key=None)).status_code in {401, 404}
        calls = len(upstream.requests)
        for key in (None, "sk-1234"):
            assert (await api.raw("POST", "/key/generate", key=key, json={})).status_code in {401, 404}
        assert len(upstream.requests) == calls


async def test_i6_an_open_gateway_heeds_what_its_file_declares_and_needs_no_store(upstream, seen):
    secret = mint()
    auth = (
        f"open: true, keys: {{ci: {{secret: {secret}, team: gitops, user: ann, models: [m]}}}}, "
        "users: {ann: {}}, teams: {gitops: {}}, blocked: {end_users: [barred]}, "
        "customers: {bad: {blocked: true}, poor: {models: [m], policies: {ratelimit: {rpm_limit: 1}}}}"
    )
    text = stack_text(upstream.url).replace(f"admin_key: {ADMIN}, ", auth)
    async with serving(text) as api:
        assert (await api.chat(secret, "n")).status_code == 403
        assert (await api.chat(secret, user="someone")).status_code == 200
        assert (seen[-1].id, seen[-1].team, seen[-1].user, seen[-1].end_user) == ("ci", "gitops", "ann", "someone")
        for key in (None, secret):
            for end_user in ("bad", "barred"):
                refused = await api.chat(key, user=end_user)
                assert refused.status_code == 401 and "End user is blocked" in refused.text
        assert (await api.chat(None, "n", user="poor")).status_code == 403
        assert [(await api.chat(None, user="poor")).status_code for _ in range(2)] == [200, 429]


async def test_another_pepper_is_said_and_the_old_one_mends_it(serve, sqlite_url, upstream):
    async with serve(sqlite_url) as api:
        key = await api.key()
    changed = secrets.token_hex(32)
    text = stack_text(upstream.url, store=sqlite_url)
    with pytest.raises(BadConfig, match="pepper") as caught:
        async with serving(text.replace(ADMIN, changed)):
            pass
    assert changed not in str(caught.value) and ADMIN not in str(caught.value)
    async with serving(text.replace(f"admin_key: {ADMIN}", f"admin_key: {changed}, pepper: {ADMIN}")) as api:
        assert (await api.chat(key)).status_code == 200
        assert (await api.raw("GET", "/key/list")).status_code == 401  # the old admin key is none any more
        assert (await api.raw("GET", "/key/list", key=changed)).status_code == 200


# ── no secret is shown, and none is kept ─────────────────────────────────────────────────────────────────────────────


async def test_a_dump_of_the_store_opens_nothing(api):
    """Security check 10: every column of every row, as a credential."""
    made = [await api.key(key_alias=f"k{n}", metadata={"n": n}) for n in range(3)]
    made.append((await api.post("/user/new", {"user_id": "u", "user_email": "u@x.y"}))["key"])
    async with reading(api.auth.book.store) as sql:
        texts = {
            str(value)
            for table in metadata.sorted_tables
            for row in (await sql.execute(select(table))).all()
            for value in row
        }
    assert not [key for key in [*made, ADMIN] if any(key in text for text in texts)]
    assert len(texts) > 20
    for text in sorted(texts):
        if text.isascii() and text.isprintable() and text.strip():
            for headers in ({"authorization": f"Bearer {text}"}, {"x-api-key": text}):
                assert (await api.chat(None, headers=headers)).status_code == 401, text


@pytest.fixture
def shown(caplog, capsys):
    """All that was logged and printed."""
    caplog.set_level(logging.DEBUG)

    def read():
        out = capsys.readouterr()
        return caplog.text + out.out + out.err

    return read


async def test_no_credential_is_shown_anywhere(sqlite_api, shown, monkeypatch):
    """Canaries: the admin key, keys, a wrong key, through every refusal, failure, description and list."""
    key, wrong = await sqlite_api.key(key_alias="a"), mint()
    texts = []
    for credential in (ADMIN, key, wrong, key[:-1] + "x"):
        for method, path in sqlite_api.gateway.stack.admin.routes:
            answer = await sqlite_api.raw(method, path.replace("{key}", "x"), key=credential, json={"key": 1})
            texts.append(answer.text)
        texts += [(await sqlite_api.chat(credential, model)).text for model in ("m", "nothing")]

    async def fails(*_, **__):
        raise RuntimeError(f"with {key} and {ADMIN}")

    monkeypatch.setattr(type(sqlite_api.auth.book), "one", fails)
    sqlite_api.auth.cache.clear()
    texts += [(await sqlite_api.chat(one)).text for one in (key, wrong)]
    texts += [repr(sqlite_api.auth), repr(sqlite_api.auth.config), str(sqlite_api.auth.health()), shown()]
    for secret in (ADMIN, key, wrong):
        assert not [text for text in texts if secret in text]
    assert "'key_alias'" in str(texts) or "key_alias" in str(texts)  # the control: something was said at all


def test_a_fault_in_the_stack_file_quotes_no_secret():
    canary = f"{secrets.token_hex(20)}"
    stack = f"gwcore: 1\n{UPSTREAM}stack: [{{auth: {{admin_key: {canary}, keys: {{a: {{secret: {canary}x, sha256: zz}}}}, ttl: {canary}}}}}]\n"
    with pytest.raises(BadConfig) as caught:
        asyncio.run(Gateway(stack).startup())
    assert canary not in "".join(traceback.format_exception(caught.value))


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_command_line_against_a_running_gateway(sqlite_api, monkeypatch):
    runner = CliRunner()
    monkeypatch.setenv("GWCORE_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("GWCORE_URL", sqlite_api.url)

    async def said(group, *arguments, code=0):
        result = await asyncio.to_thread(runner.invoke, group, list(arguments))
        assert result.exit_code == code, result.output
        return result.output

    async def told(*arguments):
        # the gateway logs in this process, too
        return json.loads(re.search(r"^\{.*^\}", await said(*arguments), re.DOTALL | re.MULTILINE)[0])

    await said(cli.users, "create", "--id", "ann", "--email", "ann@x.y")
    await said(cli.teams, "create", "--id", "t", "--alias", "research", "--budget", "50", "--per", "30d")
    await said(cli.teams, "add", "t", "ann", "--lead")
    made = await told(cli.keys, "create", "--alias", "ci", "--team", "t", "--models", "m,up/*", "--duration", "30d")
    assert (await sqlite_api.chat(made["key"])).status_code == 200
    assert "ci" in await said(cli.keys, "list") and "1 keys" in await said(cli.keys, "list", "--team", "t")
    assert "research" in await said(cli.teams, "list") and "ann@x.y" in await said(cli.users, "list")
    assert (await told(cli.teams, "show", "t"))["team_info"]["max_budget"] == 50.0
    assert (await told(cli.keys, "show", made["token"]))["info"]["models"] == ["m", "up/*"]
    assert (await told(cli.users, "show", "ann"))["teams"][0]["team_id"] == "t"
    await said(cli.keys, "block", made["token"])
    assert (await sqlite_api.chat(made["key"])).status_code == 401
    await said(cli.keys, "unblock", made["token"])
    again = await told(cli.keys, "rotate", made["token"], "--grace", "1h")
    assert [(await sqlite_api.chat(key)).status_code for key in (made["key"], again["key"])] == [200, 200]
    await said(cli.teams, "block", "t")
    assert (await sqlite_api.chat(again["key"])).status_code == 401
    await said(cli.teams, "unblock", "t")
    await said(cli.keys, "delete", made["token"])
    await said(cli.teams, "remove", "t", "ann")
    await said(cli.teams, "delete", "t")
    await said(cli.users, "delete", "ann")
    assert "not found" in await said(cli.keys, "show", "nothing", code=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "cannot be reached" in await said(cli.keys, "list", "--url", nowhere, code=1)
    monkeypatch.delenv("GWCORE_ADMIN_KEY")
    assert "GWCORE_ADMIN_KEY is not set" in await said(cli.keys, "list", code=1)


async def test_the_commands_are_gwcore_s(sqlite_api):
    env = {**os.environ, "GWCORE_ADMIN_KEY": ADMIN, "GWCORE_URL": sqlite_api.url}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(GWCORE, "keys", "list", stdout=pipe, stderr=pipe, env=env)
    out, err = await process.communicate()
    assert process.returncode == 0 and b"0 keys" in out, err


async def test_what_a_plugin_would_limit_is_not_unlimited_without_it(upstream, sqlite_url):
    """The same store behind a stack without budgets: a key's budget, or a customer's, would bind nobody."""
    text = stack_text(upstream.url, store=sqlite_url)
    async with serving(text) as api:
        capped, free = await api.key(max_budget=5), await api.key()
        await api.post("/customer/new", {"user_id": "c", "max_budget": 5})
    async with serving(text.replace("  - budget: {patience: 5s}\n", "")) as api:
        assert (await api.chat(free)).status_code == 200
        for refused in (await api.chat(capped), await api.chat(free, user="c")):
            assert refused.status_code == 403 and "does not run" in refused.text

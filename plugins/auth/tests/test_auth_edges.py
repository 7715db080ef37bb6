"""I2, I4, I5, S5: no spelling of an address gets past the credential, no body chooses where a call goes, none runs code."""

import asyncio
import json
import sys
from urllib.parse import urlsplit

import pytest
from auth_world import CHAT, serving, stack_text

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_auth.keys import mint

# ── I2: addresses ────────────────────────────────────────────────────────────────────────────────────────────────────

HOSTS = [
    b"x", b"127.0.0.1", b"localhost/v1/models?", b"x/key/list#", b"a b", b"", b"[::1", b"evil.example:99999", b"x\\@y", b"\xff\xfe",
    b"http://x/health", b"x?/../health",
]  # fmt: skip
FORWARDED = [
    b"x-forwarded-host: localhost/health?", b"x-forwarded-prefix: /health", b"x-original-url: /health", b"x-rewrite-url: /health",
    b"x-forwarded-for: 127.0.0.1", b"x-forwarded-path: /health", b"x-http-method-override: GET", b"x-script-name: /health",
    b"forwarded: for=127.0.0.1;host=health", b"x-gwcore-principal: admin", b"x_gwcore_user: admin", b"x-litellm-end-user-id: admin",
]  # fmt: skip


def spellings(path):
    head, _, tail = path[1:].partition("/")
    return [
        path, f"/{path}", f"{path}/", f"{path}?", f"{path}//", f"/./{path[1:]}", f"/health/..{path}", f"/health/%2e%2e{path}",
        f"/{head}%2f{tail}", f"/{head};x=1/{tail}", f"{path};health", f"{path}%00", f"{path}%20", f"/health{path}", path.upper(),
        f"{path}#/health", f"/v1/models/..{path}", f"/{head}\\{tail}", f"{path}?key=sk-1234&token=a&api_key=b", f"http://x{path}",
        f"/%2e{path}", f"/v1{path}", f"/admin{path}",
    ]  # fmt: skip


async def raw(url, method, target, host=b"x", extra=b"", body=b"{}"):
    """Status of one hand-made request; 0 where the connection was closed without an answer."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    lines = [
        f"{method} {target} HTTP/1.1".encode("latin-1"),
        b"host: " + host,
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        *([extra] if extra else []),
    ]
    try:
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        line = await reader.readline()
        await reader.read()
    except ConnectionError:
        return 0
    finally:
        writer.close()
    return int(line.split()[1]) if line else 0


@pytest.mark.timeout(120)
async def test_i2_no_spelling_of_an_address_needs_no_credential(sqlite_api, upstream):
    """CVE-2026-49468, CVE-2026-48710."""
    bad, url = [], sqlite_api.url
    for (method, path), route in sqlite_api.gateway.stack.admin.routes.items():
        body = b"{}" if route.Body else b""
        for target in spellings(path.replace("{key}", "x")):
            status = await raw(url, method, target, body=body)
            bad += [(method, target, status)] if 200 <= status < 400 or status >= 500 else []
    for host in HOSTS:
        for extra in (b"", *FORWARDED):
            for method, target in (("GET", "/key/list"), ("POST", "/key/generate"), ("POST", "/v1/chat/completions")):
                status = await raw(url, method, target, host, extra)
                bad += [(method, target, host, extra, status)] if 200 <= status < 400 or status >= 500 else []
    assert bad == []
    assert upstream.requests == []


async def test_i2_the_control(sqlite_api, admin_key):
    bearer = b"authorization: Bearer " + admin_key.encode()
    assert await raw(sqlite_api.url, "GET", "/key/list", extra=bearer) == 200
    assert await raw(sqlite_api.url, "POST", "/key/generate", extra=bearer) == 200


async def test_i2_a_host_changes_nothing_for_who_has_a_credential(sqlite_api):
    """A key stays a key, whatever its request calls the host."""
    bearer = b"authorization: Bearer " + (await sqlite_api.key()).encode()
    for host in HOSTS:
        assert await raw(sqlite_api.url, "GET", "/user/list", host, bearer) in {0, 400, 403}, host


# ── S5, I5: where a call goes ────────────────────────────────────────────────────────────────────────────────────────

FIELDS = [
    "api_base", "base_url", "api_key", "extra_headers", "headers", "proxy", "organization", "custom_llm_provider", "model_list",
    "fallbacks", "litellm_params", "user_config", "aws_bedrock_runtime_endpoint", "vertex_location", "azure_ad_token", "endpoint",
    "litellm_credential_name", "region_name", "api_version", "target_url", "litellm_metadata", "router_settings", "upstream",
]  # fmt: skip
DIALECTS = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "m", "input": "hi"},
    "/v1/messages": {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
    "/v1beta/models/m:generateContent": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    "/v1/embeddings": {"model": "m", "input": "hi"},
}


def sprayed(body, sink):
    """The body with the fields on top, in its metadata, and deep inside."""
    for field in FIELDS:
        value = {"authorization": sink} if "headers" in field else sink
        for value_ in (
            value,
            {"api_base": sink, "base_url": sink},
            [{"model_name": "m", "litellm_params": {"api_base": sink}}],
        ):
            yield {**body, field: value_}
        yield {**body, "metadata": {field: value}}
        yield {**body, "extra_body": {"deep": [{"deeper": {field: value}}]}}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", DIALECTS)
async def test_s5_nothing_in_a_request_says_where_it_goes(sqlite_api, upstream, path):
    """CVE-2024-6587, CVE-2026-59823, CVE-2026-84377."""
    key = await sqlite_api.key(models=["m"])
    async with FakeUpstream() as sink:
        sink.default = Answer(body=b"{}")
        documents = list(sprayed(DIALECTS[path], sink.url))
        for batch in range(0, len(documents), 10):
            await asyncio.gather(
                *(sqlite_api.raw("POST", path, key=key, json=one) for one in documents[batch : batch + 10])
            )
        for name in (
            "x-litellm-api-base",
            "x-portkey-custom-host",
            "x-api-base",
            "helicone-target-url",
            "x-gwcore-upstream",
            "api-base",
        ):
            await sqlite_api.raw("POST", path, key=key, json=DIALECTS[path], headers={name: sink.url})
        for name in FIELDS:
            await sqlite_api.raw(
                "POST", path, key=key, json=DIALECTS[path], **{name if name != "headers" else "h": sink.url}
            )
        assert sink.requests == []
    assert upstream.requests
    credentials = {
        value
        for seen in upstream.requests
        for name, value in seen.headers
        if name.lower() in {"authorization", "x-api-key", "x-goog-api-key"}
    }
    assert all("up-key-canary" in value for value in credentials)
    assert not [seen for seen in upstream.requests if seen.document.get("model") not in {"m", None}]


async def test_s5_the_sink_sees_what_comes(upstream, sqlite_url):
    """The control: the same gateway calls the sink where its stack file says so, and only there."""
    async with FakeUpstream() as sink:
        sink.default = Answer(body=CHAT)
        text = stack_text(upstream.url, store=sqlite_url).replace(
            f"other: {{provider: openai-compatible, base_url: '{upstream.url}",
            f"other: {{provider: openai-compatible, base_url: '{sink.url}",
        )
        async with serving(text) as api:
            assert (await api.chat(await api.key(), "other/x")).status_code == 200
        assert len(sink.requests) == 1 and upstream.requests == []


# ── I4: nothing of a request runs ────────────────────────────────────────────────────────────────────────────────────

_EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "exec", "compile", "ctypes.dlopen")
_seen: list = []
_watching = [False]


def _hook(event, _arguments, watching=_watching, events=_EVENTS, seen=_seen):  # it outlives the module's names
    if watching[0] and event in events:
        seen.append(event)


sys.addaudithook(_hook)

CODE = ["{{7*7}}", "${7*7}", "<%= 7*7 %>", "__import__('os').system('id')", "os.environ/HOME", "!!python/object/apply:os.system [id]", "file:///etc/passwd", "`id`", "$(id)"]  # fmt: skip


async def test_i4_no_body_runs_code(sqlite_api, admin_key):
    """Every address, as the admin, with code in every text: nothing is compiled, executed or started."""
    bodies = []
    for (method, path), route in sqlite_api.gateway.stack.admin.routes.items():
        for code in CODE:
            fields = route.Body.model_fields if route.Body else {}
            bodies.append((method, path.replace("{key}", "x"), dict.fromkeys(fields, code)))
    for method, path, body in bodies[:: len(CODE)]:  # imports of the first time
        await sqlite_api.raw(method, path, json=body)
    _seen.clear()
    _watching[0] = True
    try:
        for method, path, body in bodies:
            answer = await sqlite_api.raw(method, path, json=body)
            assert answer.status_code < 500
        for code in CODE:
            made = await sqlite_api.post("/key/generate", {"metadata": {"a": code}, "tags": [code]})
            assert (made["metadata"], made["tags"]) == ({"a": code}, [code])
    finally:
        _watching[0] = False
    assert _seen == []
    _watching[0] = True
    eval("7*7")
    _watching[0] = False
    assert "compile" in _seen and json.dumps(_seen)


# ── B13: whom a client may charge ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("allowed", "statuses"), [("['*']", (200, 200)), ("[dev, 'try-*']", (200, 403)), ("[]", (403, 403))]
)
async def test_b13_a_client_gives_no_tag_that_it_may_not(serve, sqlite_url, seen, allowed, statuses):
    async with serve(sqlite_url, auth=f"client_tags: {allowed}") as api:
        key = await api.key(tags=["finance"])
        for given, status in zip(("dev, try-1", "dev, finance-secret"), statuses, strict=True):
            answer = await api.chat(key, headers={"x-gwcore-tags": given})
            assert answer.status_code == status, answer.text
            assert status == 200 or "client_tags" in answer.text
        for own in ({}, {"x-gwcore-tags": "finance,"}):
            assert (await api.chat(key, headers=own)).status_code == 200
        assert all("finance" in call.tags for call in seen)


async def test_declared_routes_are_all_that_a_declared_key_may_call(serve, sqlite_url):
    some, every = mint(), mint()
    auth = f"keys: {{some: {{secret: {some}, routes: [embeddings]}}, every: {{secret: {every}}}}}"
    async with serve(sqlite_url, auth=auth) as api:
        asked = {
            key: await api.raw("POST", "/v1/embeddings", key=key, json={"model": "m", "input": "a"})
            for key in (some, every)
        }
        assert [answer.status_code for answer in asked.values()] == [200, 200]
        assert [(await api.chat(key)).status_code for key in asked] == [403, 200]
        assert [(await api.raw("GET", "/key/info", key=key)).status_code for key in asked] == [403, 403]

"""Credentials of clouds in a running gateway: never per request, kept over a reload, gone with the stack."""

import asyncio
import hmac
import json
import math
import re
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.httpx import Httpx2Transport
from gwcore.wire.transport import Origin, Request, Tls
from gwcore_providers.bedrock.provider import AwsCredentials, AwsOptions, AwsTransport
from gwcore_providers.bedrock.sigv4 import Scope
from gwcore_providers.expiring import Expiring
from tests.stacks.raw import exchange

BODY = json.dumps({"contents": [{"parts": [{"text": "x"}]}]}).encode()
GEMINI = "/v1beta/models/g:generateContent"
MESSAGES = json.dumps({"model": "anthropic.m:0", "max_tokens": 1, "messages": []}).encode()
SECRET = "wJalrXUtnFEMI/K7MDENG"


def write(path, **entry):
    path.write_text(json.dumps({"gwcore": 1, "upstreams": {"up": entry}, "stack": []}))


def vertex(up, service_account, **more):
    return {"provider": "vertex", "base_url": up.url, "credentials": service_account(up.url), **more}


def google(seen):
    """Numbered tokens, and what was answered with which."""
    if seen.target == "/token":
        google.issued += 1
        return Answer(body=json.dumps({"access_token": f"token-{google.issued}", "expires_in": 3600}).encode())
    return Answer(body=json.dumps({"seen": seen.header("authorization")}).encode())


@pytest.fixture
async def up():
    google.issued = 0
    async with FakeUpstream() as server:
        server.default = google
        yield server


def tokens(up):
    return sum(seen.target == "/token" for seen in up.requests)


async def test_one_token_for_all_requests_and_over_a_reload(up, tmp_path, service_account):
    file = tmp_path / "stack.yaml"
    write(file, **vertex(up, service_account))
    gateway = Gateway(file)
    async with running(gateway) as url:
        assert tokens(up) == 0  # assembled and started: nothing was asked for
        answers = await asyncio.gather(*(exchange(url, "POST", GEMINI, BODY) for _ in range(20)))
        assert {answer.body for answer in answers} == {b'{"seen": "Bearer token-1"}'}
        write(file, **vertex(up, service_account, headers={"x-changed": "1"}))
        assert await gateway.reload()
        answer = await exchange(url, "POST", GEMINI, BODY)
        assert answer.body == b'{"seen": "Bearer token-1"}' and tokens(up) == 1
        write(file, **vertex(up, service_account, location="us-east5"))
        assert await gateway.reload()
        answer = await exchange(url, "POST", GEMINI, BODY)
        assert answer.body == b'{"seen": "Bearer token-2"}' and tokens(up) == 2


async def test_nothing_of_it_outlives_the_gateway(up, service_account):
    before = asyncio.all_tasks()
    stack = json.dumps({"gwcore": 1, "upstreams": {"up": vertex(up, service_account)}, "stack": []}) + "\n"
    async with running(Gateway(stack)) as url:
        await exchange(url, "POST", GEMINI, BODY)
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}
        assert "Expiring._keep" in names
    left = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}
    assert "Expiring._keep" not in left


async def test_the_loop_runs_while_google_auth_waits(up, service_account):
    """A token endpoint that never answers holds up the requests that need it, and nothing else."""
    up.default = Answer(delay_head=math.inf)
    stack = json.dumps({"gwcore": 1, "upstreams": {"up": vertex(up, service_account)}, "stack": []}) + "\n"
    async with running(Gateway(stack)) as url:
        waiting = asyncio.create_task(exchange(url, "POST", GEMINI, BODY))
        await up.received(1)
        assert (await exchange(url, "GET", "/livez")).status == 200
        assert not waiting.done() and [seen.target for seen in up.requests] == ["/token"]
        waiting.cancel()
        await asyncio.wait([waiting])


def verified(seen, secret):
    """Whether the signature fits what arrived; read from the specification, not from our signer."""
    authorization = seen.header("authorization")
    scope, names, signature = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKID/(\S+), SignedHeaders=(\S+), Signature=([0-9a-f]{64})", authorization
    ).groups()
    lines = [f"{name}:{seen.header(name)}" for name in names.split(";")]
    path = quote(seen.target, safe="/~")
    canonical = "\n".join([seen.method, path, "", *lines, "", names, sha256(seen.body).hexdigest()])
    text = "\n".join(["AWS4-HMAC-SHA256", seen.header("x-amz-date"), scope, sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in [*scope.split("/"), text]:
        key = hmac.new(key, part.encode(), sha256).digest()
    return key.hex() == signature


@pytest.mark.parametrize("size", [1, 3_000_000])
async def test_the_signature_fits_what_was_sent(size):
    body = json.dumps({"model": "us.anthropic.m:0", "max_tokens": 1, "messages": [], "system": "é" * size}).encode()
    async with FakeUpstream() as up:
        entry = {
            "provider": "bedrock",
            "base_url": up.url,
            "region": "us-east-1",
            "access_key_id": "AKID",
            "secret_access_key": SECRET,
        }
        async with running(Gateway(json.dumps({"gwcore": 1, "upstreams": {"up": entry}}) + "\n")) as url:
            assert (await exchange(url, "POST", "/v1/messages?beta=true", body)).status == 200
        (seen,) = up.requests
        assert seen.target == "/model/us.anthropic.m%3A0/invoke"
        assert seen.header("x-amz-date").startswith(f"{datetime.now(UTC):%Y%m%d}T")
        assert verified(seen, SECRET)
        assert not verified(seen, "other")
        seen.body += b" "
        assert not verified(seen, SECRET)
        assert SECRET not in str(seen.headers)


async def test_the_other_transport_sends_what_was_signed():
    """Behind a proxy or HTTP/2, httpx2 writes the request line: as it was signed."""
    transport = Httpx2Transport(tls=Tls())
    options = AwsOptions(region="us-east-1", access_key_id="AKID", secret_access_key=SECRET)
    signing = AwsTransport(transport, Expiring("keys", AwsCredentials(options), 0), Scope("us-east-1", "bedrock"))
    async with FakeUpstream() as up:
        target = "/model/arn%3Aaws%3Ax%2Fy~z@1/invoke"
        response = await signing.send(
            Request("POST", Origin.of(up.url), target, [(b"content-type", b"application/json")], b'{"a": 1}')
        )
        assert response.status == 200
        response.close()
        await transport.aclose()
        await signing.aclose()
        (seen,) = up.requests
    assert seen.target == target and verified(seen, SECRET)


async def test_a_bearer_key_is_not_signed():
    async with FakeUpstream() as up:
        entry = {"provider": "bedrock", "base_url": up.url, "region": "us-east-1", "api_key": "bearer-key-1"}
        async with running(Gateway(json.dumps({"gwcore": 1, "upstreams": {"up": entry}}) + "\n")) as url:
            await exchange(url, "POST", "/v1/messages", MESSAGES)
        (seen,) = up.requests
        assert seen.header("authorization") == "Bearer bearer-key-1" and seen.header("x-amz-date") is None


async def test_another_upstream_takes_over_where_there_is_no_credential(monkeypatch):
    """Nothing was sent, and the error says so: a router may go on."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/a")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/b")
    async with FakeUpstream() as up:
        entry = {"provider": "bedrock", "base_url": up.url, "region": "us-east-1"}
        async with running(Gateway(json.dumps({"gwcore": 1, "upstreams": {"up": entry}}) + "\n")) as url:
            answer = await exchange(url, "POST", "/v1/messages", MESSAGES)
        assert answer.status == 502 and json.loads(answer.body)["error"]["code"] == "upstream_unreachable"
        assert "no AWS credentials in the environment" in json.loads(answer.body)["error"]["message"]
        assert not up.requests

"""Every response names its request: calls, probes, the admin API, metrics, addresses that nobody serves."""

import secrets

import httpx2
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running

ADMIN = secrets.token_hex(32)
STACK = """\
gwcore: 1
stores: {{book: "sqlite:///{folder}/book.db"}}
upstreams: {{demo: {{provider: demo}}}}
models: {{house: demo/demo}}
stack:
  - auth: {{admin_key: {admin}}}
watch: [prometheus]
"""


@pytest.fixture
async def gateway(tmp_path):
    return Gateway(STACK.format(folder=tmp_path, admin=ADMIN), serve_admin=True)


async def test_every_response_has_an_id_of_its_own(gateway):
    addresses = [
        ("POST", "/v1/chat/completions", 200), ("GET", "/v1/models", 200), ("GET", "/v1/models/nope", 404), ("GET", "/key/list", 200),
        ("POST", "/key/generate", 200), ("GET", "/key/generate", 404), ("GET", "/key/info?key=nope", 404), ("POST", "/key/update", 422),
        ("GET", "/openapi.json", 200), ("GET", "/health", 200), ("HEAD", "/", 200), ("GET", "/health/readiness", 200), ("GET", "/livez", 200),
        ("GET", "/metrics", 200), ("GET", "/nope", 404), ("DELETE", "/v1/chat/completions", 404),
    ]  # fmt: skip
    body = {"model": "house", "messages": [{"role": "user", "content": "hi"}]}
    seen = set()
    async with running(gateway) as url, httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        for method, path, status in addresses:
            sent = body if "chat" in path else {}
            headers = {"authorization": f"Bearer {ADMIN}"}
            answer = await http.request(method, url + path, headers=headers, json=sent if method == "POST" else None)
            assert answer.status_code == status, (path, answer.text)
            ids = answer.headers.get_list("x-gwcore-request-id")
            assert len(ids) == 1 and ids[0], (path, ids)
            seen.update(ids)
            if "request_id" in answer.text and path != "/openapi.json":
                assert answer.json().get("request_id", answer.json()["error"].get("request_id")) == ids[0]
        refused = await http.get(f"{url}/key/list")
        assert refused.status_code == 401 and refused.headers["x-gwcore-request-id"]
    assert len(seen) == len(addresses)


async def test_the_admin_api_mounted_by_itself(gateway):
    async with gateway, httpx2.AsyncClient(transport=httpx2.ASGITransport(gateway.admin), base_url="http://x") as http:
        answer = await http.get("/key/list", headers={"authorization": f"Bearer {ADMIN}"})
        assert answer.status_code == 200 and answer.headers["x-gwcore-request-id"]
        assert (await http.get("/nope")).headers["x-gwcore-request-id"]

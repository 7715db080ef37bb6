"""Every plugin at its place, as ``examples/everything`` has it, over two workers: a key's life as its operator sees it."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

STACK = Path(__file__).parents[2] / "examples/everything/stack.yaml"
ADMIN = secrets.token_hex(24)


@pytest.fixture
def gateway(tmp_path):
    """``gwcore run`` in a folder of its own; yields a client with the admin key."""
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [Path(sys.executable).with_name("gwcore"), "run", STACK, "--port", "0", "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "GWCORE_ADMIN_KEY": ADMIN},
    )
    try:
        line = process.stdout.readline()
        assert " on http" in line, (line, (tmp_path / "log").read_text())
        url = line.rsplit(" on ", 1)[1].strip()
        with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN}"}, timeout=20) as client:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx2.TransportError:
                    pass
                time.sleep(0.05)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        process.stdout.close()
        log.close()


def chat(client, key, text, model="small"):
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})


def test_a_key_from_its_making_to_its_end(gateway):
    made = gateway.post(
        "/key/generate", json={"models": ["small"], "max_budget": 0.5, "rpm_limit": 5, "key_alias": "bob"}
    )
    key = made.json()["key"]
    first, again = chat(gateway, key, "hi"), chat(gateway, key, "hi")
    assert first.status_code == again.status_code == 200
    assert again.headers["x-gwcore-cache"] in {"hit", "miss"}  # each worker keeps its own: the store is memory
    refused = [chat(gateway, key, f"hi {n}").status_code for n in range(5)]
    assert refused.count(429) == 2 and refused.count(200) == 3  # five a minute, exact over both workers
    foreign = chat(gateway, key, "hi", model="large")
    assert foreign.status_code == 403 and "large" in foreign.json()["error"]["message"]
    assert gateway.get("/v1/models", headers={"authorization": f"Bearer {key}"}).json()["data"][0]["id"] == "small"

    metrics = gateway.get("/metrics")
    assert metrics.status_code == 200
    names = set(re.findall(r"^(gwcore_\w+)", metrics.text, re.MULTILINE))
    assert {"gwcore_requests_total", "gwcore_cache_events_total", "gwcore_ratelimit_refused_total"} <= names
    assert {"gwcore_deployment_state", "gwcore_budget_holds", "gwcore_sink_sent_total"} <= names
    assert gateway.get("/metrics", headers={"authorization": f"Bearer {key}"}).status_code in {401, 403}

    end = time.monotonic() + 10
    while time.monotonic() < end:  # the book is written behind the answers
        (spent,) = gateway.get("/spend/keys", params={"key": key}).json()
        if spent["api_requests"]:
            break
        time.sleep(0.05)
    assert spent["key_alias"] == "bob" and spent["api_requests"] > 0 and spent["spend"] == 0  # demo is free
    health = gateway.get("/health").json()
    assert health["status"] == "healthy" and set(health["plugins"]) >= {
        "auth",
        "ratelimit",
        "cache",
        "fallback",
        "budget",
    }
    assert gateway.post("/key/delete", json={"keys": [key]}).status_code == 200
    time.sleep(1.0)  # without a shared store, a worker learns of it within a second
    assert chat(gateway, key, "bye").status_code == 401

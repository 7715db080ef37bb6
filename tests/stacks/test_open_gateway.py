"""A gateway without keys is for the programs of its machine, and not for what the browser there shows."""

import httpx2
import pytest

from gwcore import browsers, gateway
from gwcore.browsers import website
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

FOREIGN = [
    {"host": "127.0.0.1:4000", "origin": "https://evil.example"},  # a form that posts text/plain: nobody asks first
    {"host": "127.0.0.1:4000", "origin": "null"},
    {"host": "127.0.0.1:4000", "origin": "http://127.0.0.1.evil.example"},
    {"host": "127.0.0.1:4000", "origin": "http://localhost@evil.example"},
    {"host": "evil.example:4000", "origin": "http://evil.example:4000"},  # a name that points here since a minute
    {"host": "127.0.0.1:4000", "origin": "http://192.168.0.7"},  # what another machine of the house shows
    {"host": "127.0.0.1:4000", "origin": "http://printer.local"},
    {"host": "evil.example."},
    {"host": "localhost.evil.example"},
    {"host": "127.0.0.1.evil.example"},
]
OWN = [
    {},
    {"host": "127.0.0.1:4000"},
    {"host": "localhost:4000", "origin": "http://localhost:3000"},
    {"host": "[::1]:4000", "origin": "http://[::1]:3000"},
    {"host": "app.localhost", "origin": "http://app.localhost"},
    {"host": "App.LOCALHOST.:4000"},
    {"host": "host.docker.internal:4000"},
    {"host": "gateway:4000", "origin": "http://gateway:4000"},
    {"host": "192.168.0.7:4000", "origin": "http://192.168.0.7:4000"},
    {"host": "127.0.0.1:4000", "origin": "vscode-webview://abc"},
]
OPEN, MOUNTED, GUARDED = ("[]", True, ""), ("[]", False, ""), ("[]", True, "server: {open: true}\n")
AUTH = ("[auth: {open: true}]", True, "")


async def statuses(heads, stack, serve_admin, more):
    async with FakeUpstream() as up:
        up.default = Answer(body=b"{}")
        text = f'gwcore: 1\nupstreams:\n  up: {{provider: openai, base_url: "{up.url}/v1"}}\nstack: {stack}\n{more}'
        async with running(Gateway(text, serve_admin=serve_admin)) as url, httpx2.AsyncClient(trust_env=False) as http:
            body = b'{"model": "m", "messages": []}'
            sent = {"content-type": "text/plain"}
            found = [
                (await http.post(f"{url}/v1/chat/completions", content=body, headers={**sent, **head})).status_code
                for head in heads
            ]
        return found, len(up.requests)


@pytest.mark.parametrize("how", [OPEN, AUTH], ids=["no auth", "auth.open"])
async def test_no_website_spends_or_reads(how):
    assert await statuses(FOREIGN, *how) == ([403] * len(FOREIGN), 0)
    assert await statuses(OWN, *how) == ([200] * len(OWN), len(OWN))


@pytest.mark.parametrize("how", [MOUNTED, GUARDED], ids=["mounted", "server.open"])
async def test_where_something_else_decides_it_does(how):
    assert (await statuses(FOREIGN, *how))[0] == [200] * len(FOREIGN)


async def test_control_without_the_look_each_of_them_spends(monkeypatch):
    monkeypatch.setattr(gateway, "website", lambda _headers: False)
    assert (await statuses(FOREIGN, *OPEN))[1] == len(FOREIGN)


def test_names_typed_by_strangers_fill_no_memory():
    for n in range(2000):
        website([(b"host", b"%d.example" % n)])
    assert browsers._foreign.cache_info().currsize <= 256

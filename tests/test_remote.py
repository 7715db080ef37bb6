"""Verbs that ask a running gateway: what stands between, and what is no gateway, is told in a sentence."""

import http.server
import json
import ssl
import threading
from contextlib import contextmanager

import pytest
import trustme
import typer

from gwcore import remote


@contextmanager
def serving(answer, *, tls=None):
    """An HTTP server of loopback that answers ``(status, body)``; yields its port and the requests that came."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("authorization")))
            status, body = answer
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1], seen
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(remote.CREDENTIAL, "sk-admin-canary")


def refused(capsys, url):
    with pytest.raises(typer.Exit) as caught:
        remote.ask(url, "GET", "/key/list")
    assert caught.value.exit_code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_this_machine_serves_is_asked_without_a_proxy(monkeypatch, host):
    """A proxy of the environment, as containers have one, cannot reach it, and would read the admin's key."""
    with serving((502, b"no")) as (proxy, read), serving((200, b'{"keys": []}')) as (port, _):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        assert remote.ask(f"http://{host}:{port}/base/", "GET", "/key/list") == {"keys": []}
        assert not read


def test_others_are_asked_through_it(monkeypatch):
    with serving((200, b"{}")) as (proxy, read):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        assert remote.ask("http://gateway.invalid:4000/base", "GET", "/key/list") == {}
        assert read == [("http://gateway.invalid:4000/base/key/list", "Bearer sk-admin-canary")]


def test_a_certificate_that_nobody_knows_is_named(monkeypatch, tmp_path, capsys):
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with serving((200, b"{}"), tls=tls) as (port, _):
        assert "certificate verify failed" in refused(capsys, f"https://127.0.0.1:{port}")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert remote.ask(f"https://127.0.0.1:{port}", "GET", "/key/list") == {}


@pytest.mark.parametrize(
    ("url", "variables", "said"),
    [
        ("http://[::1", {}, "cannot be used"),
        ("127.0.0.1:4000", {}, "write http://host:port"),
        ("ftp://127.0.0.1", {}, "write http://host:port"),
        ("https://h.invalid", {"SSL_CERT_FILE": "/nowhere.pem"}, "No such file"),
        ("http://h.invalid", {"all_proxy": "gopher://127.0.0.1"}, "gopher"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(monkeypatch, capsys, url, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = refused(capsys, url)
    assert said in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("document", [{"error": "no such host"}, ["no such host"], "no such host", {"error": None}])
def test_another_s_refusal_is_shown(capsys, document):
    with serving((502, json.dumps(document).encode())) as (port, _):
        assert ("no such host" if document != {"error": None} else "None") in refused(
            capsys, f"http://127.0.0.1:{port}"
        )

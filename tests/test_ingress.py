"""The ingress table."""

from types import SimpleNamespace

import pytest

from gwcore.dialect import Route
from gwcore.ingress import Ingress

A = SimpleNamespace(
    name="a",
    routes=(
        Route("POST", "/chat", "chat"),
        Route("GET", "/models", "models", local=True),
        Route("GET", "/models/{model}", "models", local=True),
        Route("GET", "/files", "files"),
        Route("GET", "/files/{id}", "file"),
        Route("GET", "/files/{id}/content", "file_content"),
    ),
)
B = SimpleNamespace(
    name="b",
    routes=(
        Route("GET", "/models", "models", local=True, header="b-version"),
        Route("GET", "/models/{model}", "models", local=True, header="b-version"),
        Route("POST", "/models/{model}:generate", "chat", prefixes=("/v1", "/v1beta"), model="path"),
    ),
)
table = Ingress([A, B])


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("POST", "/chat", [], ("a", "chat", {})),
        ("POST", "/v1/chat", [], ("a", "chat", {})),
        ("GET", "/v1/models", [], ("a", "models", {})),
        ("GET", "/v1/models", [(b"b-version", b"1")], ("b", "models", {})),
        ("GET", "/v1/models/x/y", [], ("a", "models", {"model": "x/y"})),
        ("GET", "/v1/models/x/y", [(b"b-version", b"1")], ("b", "models", {"model": "x/y"})),
        ("POST", "/v1beta/models/x/y:z:generate", [], ("b", "chat", {"model": "x/y:z", "verb": "generate"})),
        ("GET", "/files/f1", [], ("a", "file", {"id": "f1"})),
        ("GET", "/v1/files/f1/content", [], ("a", "file_content", {"id": "f1"})),
    ],
)
def test_found(method, path, headers, expected):
    dialect, route, params = table.find(method, path, headers)
    assert (dialect.name, route.operation, params) == expected


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/chat/", "//chat", "/v1/v1/chat", "/v1/chat\n", "/files/a/b", "/v2/chat"]
)
def test_not_found(path):
    assert table.find("POST", path, []) is None


def test_other_methods_are_named():
    assert table.find("GET", "/chat", []) is None
    assert table.methods("/chat") == ["POST"]
    assert table.methods("/v1/files/x") == ["GET"]


@pytest.mark.parametrize(
    ("method", "path", "end"),
    [
        ("POST", "/v1/v1/chat", "/v1/chat"),
        ("POST", "//v1//chat/", "/v1/chat"),
        ("POST", "/a/b/c/d/e/f/g/chat", "/chat"),
        ("GET", "/base/files", "/files"),
        ("GET", "/base/files/f1/content", "/files/f1/content"),
        ("POST", "/a/b/c/d/e/f/g/h/chat", None),  # one segment too many
        ("GET", "/vector_stores/vs1/files", None),  # the files of a vector store, not of the account
        ("GET", "/v1/vector_stores/vs1/files/f1", None),
        ("POST", "/fim/chat", None),
        ("POST", "/v1/upload/v1/chat", None),
        ("POST", "/v1/nothing", None),
    ],
)
def test_what_a_base_url_with_too_much_in_it_meant(method, path, end):
    found = table.meant(method, path, [])
    assert (found and found[1]) == end

"""``ProviderConformance``: tests that every provider must pass.

Inherit, set the provider, run pytest::

    class TestMine(ProviderConformance):
        provider = MyProvider()
        operations = [("openai.chat", "chat")]
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from gwcore.provider import Provider, Upstream
from gwcore.resources import Lease, Resources
from gwcore.testing.fakes import upstream
from gwcore.wire.transport import Tls

_KEY = "sk-canary-1234567890"
_HOSTILE = "a/../b?c#d e%2f\r\nx: y"


class ProviderConformance:
    """Inherit and set ``provider`` and ``operations``; every test here then runs against it.

    Attributes:
        provider: the provider to test.
        operations: pairs of a dialect's name and an operation served; at least one.
        options: valid additional keys of the upstream's entry.
        model: a valid model name; set it if not every name is.
        params: path parameters of the route, if the operation needs them.
    """

    provider: ClassVar[Provider]
    operations: ClassVar[list[tuple[str, str]]]
    options: ClassVar[dict[str, Any]] = {}
    model: ClassVar[str] = "some-model"
    params: ClassVar[dict[str, str]] = {"verb": "generateContent"}

    def made(self) -> BaseModel | None:
        """The options as parsed from a stack file."""
        kind = self.provider.Options
        return kind.model_validate(self.options) if kind is not None else None

    def upstream(self) -> Upstream:
        """An upstream of this provider with a base path."""
        made = upstream()
        made.provider, made.base_path, made.options = self.provider, "/base", self.made()
        return made

    def test_it_has_a_name_and_an_address(self) -> None:
        """``base_url`` is ``None`` if it must be configured."""
        assert self.provider.name and self.provider.name == self.provider.name.lower()
        base = self.provider.base_url
        assert base is None or (base.startswith(("http://", "https://")) and not base.endswith("/"))

    def test_options_are_closed_and_described(self) -> None:
        """A typo must not be ignored, and reference pages show the descriptions."""
        kind = self.provider.Options
        if kind is not None:
            assert kind.model_config.get("extra") == "forbid"
            assert not [name for name, field in kind.model_fields.items() if not field.description]

    @pytest.mark.parametrize("stream", [False, True])
    def test_what_it_serves_has_an_address(self, stream: bool) -> None:
        """A path below the upstream's, and whether the body names the model; the same on each call."""
        assert self.operations, "set operations: what does it serve?"
        for dialect, operation in self.operations:
            asked = [
                self.provider.address(self.upstream(), dialect, operation, self.model, self.params, stream=stream)
                for _ in range(2)
            ]
            assert asked[0] is not None, f"{dialect} {operation} has no address"
            assert asked[0] == asked[1]
            path, named = asked[0]
            assert path.startswith("/base") and isinstance(named, bool)

    def test_what_it_does_not_serve_has_none(self) -> None:
        """``None`` tells a router to try another upstream."""
        assert self.provider.address(self.upstream(), "no.dialect", "chat", self.model, {}, stream=False) is None
        dialect, _ = self.operations[0]
        assert self.provider.address(self.upstream(), dialect, "no-operation", self.model, {}, stream=False) is None

    def test_a_name_cannot_lead_elsewhere(self) -> None:
        """Clients choose names, so a path contains them percent-encoded."""
        for dialect, operation in self.operations:
            found = self.provider.address(self.upstream(), dialect, operation, _HOSTILE, self.params, stream=False)
            plain = self.provider.address(self.upstream(), dialect, operation, "x", self.params, stream=False)
            if found is None or found == plain:
                continue  # not its model, or no name in the path
            path, _, query = found[0].partition("?")
            assert path.isascii() and path.isprintable() and " " not in path and "#" not in path
            assert not {".", ".."} & set(path.split("/")), "a dot segment leads elsewhere"
            assert plain is None or query == plain[0].partition("?")[2], "a name wrote the query"

    def test_credentials_are_headers_of_bytes(self) -> None:
        """Lower-case names; no header with an empty key; no key in the ``repr`` of provider and upstream."""
        headers = self.provider.credential(_KEY, self.made())
        assert all(isinstance(n, bytes) and n == n.lower() and isinstance(v, bytes) for n, v in headers)
        for name, value in self.provider.credential(None, self.made()):
            assert value.strip() not in {b"", b"Bearer", b"Bearer None", b"None"}, f"{name!r} without a key"
        assert _KEY not in repr(self.provider) + repr(self.upstream())

    def test_quirks_are_words(self) -> None:
        """Quirks, which a translated request must respect, are strings."""
        quirks = self.provider.quirks(self.upstream(), self.model)
        assert isinstance(quirks, frozenset) and all(isinstance(word, str) for word in quirks)

    def test_its_transport_starts_nothing(self) -> None:
        """The transport is created at assembly, and closed by the gateway."""

        async def make() -> None:
            tasks = len(asyncio.all_tasks())
            lease = Lease(Resources())
            gateway = lease.transport(Tls())
            made = self.provider.transport(gateway, _KEY, self.made())
            assert len(asyncio.all_tasks()) == tasks
            if made is not gateway:
                await made.aclose()
            await lease.release()

        asyncio.run(make())

"""Protects an open gateway from websites shown in a browser on its own machine.

Listening on loopback keeps other machines out, but not browsers. A site can post to 127.0.0.1 and spend money without
reading the answer, or, with a name of its own pointing there (DNS rebinding), read it too. A gateway that requires a
credential is safe: the site has none.
"""

from __future__ import annotations

from functools import lru_cache

from gwcore.stackmodels import is_loopback
from gwcore.wire.transport import Headers

_LOCAL = (".localhost", ".local", ".internal", ".home.arpa", ".lan", ".test")
"""Domain suffixes that no outsider can register."""


def website(headers: Headers) -> bool:
    """Whether a request comes from a foreign website, or addresses a name that is not this machine's."""
    host = origin = b""
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"origin":
            origin = value
    return _foreign(host, origin)


@lru_cache(256)
def _foreign(host: bytes, origin: bytes) -> bool:
    here = _name(host.decode("latin-1"))
    if not _ours(here):
        return True
    if not origin:
        return False
    scheme, _, rest = origin.decode("latin-1").partition("://")
    if scheme not in {"http", "https"}:
        return scheme == "null"  # a frame that hides its origin; applications and extensions have their own schemes
    there = _name(rest)
    return not (_loopback(there) or there == here)


def _name(authority: str) -> str:
    """Host of an authority, without its port."""
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0].rstrip(".").lower()


def _loopback(name: str) -> bool:
    return is_loopback(name) or name.endswith(".localhost")


def _ours(name: str) -> bool:
    """Whether no outsider can point this name here: it is an address, a single label, or in a local domain."""
    return "." not in name or name[0] == "[" or name.endswith(_LOCAL) or name.replace(".", "").isdigit()

"""What an open gateway must not answer: a website that the browser of its own machine shows.

Listening on loopback keeps other machines out, and no browser. A site may post to 127.0.0.1 and spend without reading the
answer, and with a name that it lets point there (DNS rebinding) it reads, too. Where a credential is asked for, it has none.
"""

from __future__ import annotations

from functools import lru_cache

from gwcore.stackmodels import is_loopback
from gwcore.wire.transport import Headers

_LOCAL = (".localhost", ".local", ".internal", ".home.arpa", ".lan", ".test")
"""Ends of names that no stranger can register."""


def website(headers: Headers) -> bool:
    """Whether a request comes from a website elsewhere, or by a name that is not this machine's."""
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
        return scheme == "null"  # a frame that hides where it is from; applications and extensions say who they are
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
    """Whether a name cannot be one that a stranger lets point here: an address, one word, or of a local domain."""
    return "." not in name or name[0] == "[" or name.endswith(_LOCAL) or name.replace(".", "").isdigit()

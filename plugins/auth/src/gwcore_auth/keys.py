"""The format of a virtual key, and how one is recognised.

``sk-<12 id>_<43 secret>_<6 check>``, all base62: the id is public and finds the row; 43 characters are 256 bits; the check
(CRC-32 of the text before it) detects a mistyped key without querying the store. The store holds
``HMAC-SHA256(pepper, hex(SHA-256(key)))`` and never the key: a dump is useless without the pepper. Any other text can be
a key, too (declared in the stack file, chosen by an admin, imported from LiteLLM, which stores the same SHA-256);
its id is that SHA-256.

256 random bits need no slow hash; short texts chosen by people are rejected.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from zlib import crc32

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"sk-([0-9A-Za-z]{12})_[0-9A-Za-z]{43}_([0-9A-Za-z]{6})")
MAX_LENGTH = 4096
"""Longer credentials are not looked up in the store."""


@dataclass(slots=True, frozen=True)
class Presented:
    """What is derived from a presented credential; not the credential itself.

    Attributes:
        id: its id in the store; ``None`` if it cannot be a stored key.
        proof: hex SHA-256 of all of it; decisions must not be stored under anything shorter.
    """

    id: str | None
    proof: str = field(repr=False)


def _base62(number: int, width: int) -> str:
    text = ""
    for _ in range(width):
        number, rest = divmod(number, 62)
        text = _ALPHABET[rest] + text
    return text


def _check(text: str) -> str:
    return _base62(crc32(text.encode()), 6)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_id() -> str:
    """A public id, 71 random bits."""
    return _random(12)


def mint() -> str:
    """A new key; shown once."""
    text = f"sk-{new_id()}_{_random(43)}"
    return f"{text}_{_check(text)}"


def proof_of(text: str) -> str:
    """Hex SHA-256 of a credential."""
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def presented(text: str) -> Presented:
    """Derive id and proof of a credential."""
    proof = proof_of(text)
    if len(text) > MAX_LENGTH:
        return Presented(None, proof)
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        return Presented(proof, proof)
    known = hmac.compare_digest(_check(text[:-7]), shape[2])
    return Presented(shape[1] if known else None, proof)


def hint(text: str) -> str:
    """How a key is shown: ``sk-...abcd``."""
    return f"sk-...{text[-4:]}"


class Pepper:
    """The HMAC key of the digests; derived, so that its source (by default the admin key) is not used for them."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"gwcore-auth virtual keys 1", "sha256")

    @property
    def fingerprint(self) -> str:
        """Distinguishes peppers, and reveals nothing else."""
        return hmac.digest(self._key, b"fingerprint", "sha256").hex()[:16]

    def digest(self, proof: str) -> str:
        """The digest that the store holds of a credential."""
        return hmac.digest(self._key, proof.encode(), "sha256").hex()

    def matches(self, proof: str, digest: str | None) -> bool:
        """Whether the digest is that of the credential, in constant time; ``None`` takes as long and never matches."""
        found = hmac.compare_digest(self.digest(proof), digest or "0" * 64)
        return found and digest is not None

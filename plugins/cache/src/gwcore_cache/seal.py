"""The form of an entry outside of this process: encrypted with a secret of the stack file, or plain with a checksum.

In both forms, data that was altered, or is stored under a different key, does not open.
"""

from __future__ import annotations

import hmac
import os
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gwcore_cache.entry import VERSION

_SUM: Final = 32
_NONCE: Final = 12
_SALT: Final = b"gwcore-cache"
_PLAIN: Final = b"gwcP%c" % VERSION
_SEALED: Final = b"gwcS%c" % VERSION


class Envelope(Protocol):
    """Encodes and decodes entries for a store."""

    name: str
    index: bytes
    """HMAC key of the cache keys. If it is secret, a reader of the store cannot recognize a prompt by its cache key."""

    def close(self, packed: bytes, key: bytes, scope: str) -> bytes:
        """Returns the bytes for the store."""
        ...

    def open(self, kept: bytes, key: bytes, scope: str) -> bytes | None:
        """Decodes bytes of the store; ``None`` if they were not closed with this key, scope, version and secret."""
        ...


class Plain:
    """Readable in the store; a checksum detects accidental changes and entries under a wrong key."""

    name = "plain"
    index = _SALT

    def close(self, packed: bytes, key: bytes, scope: str) -> bytes:
        """Prefix, checksum, entry."""
        return _PLAIN + _digest(packed, key, scope) + packed

    def open(self, kept: bytes, key: bytes, scope: str) -> bytes | None:
        """See :class:`Envelope`."""
        at = len(_PLAIN)
        packed = kept[at + _SUM :]
        if kept[:at] != _PLAIN or not hmac.compare_digest(kept[at : at + _SUM], _digest(packed, key, scope)):
            return None
        return packed


class Sealed:
    """AES-256-GCM with a key per scope (HKDF-SHA256); the entry's key and version are associated data.

    Nonces are random: per scope, 2^32 entries can be sealed before a repetition is more likely than 2^-32.
    """

    name = "sealed"

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.index = self._derive(b"index")
        # a cache per object, not per class: the secret must not outlive the object
        self._of = lru_cache(4096)(self._cipher)

    def _derive(self, about: bytes) -> bytes:
        return HKDF(SHA256(), 32, _SALT, about).derive(self._secret)

    def _cipher(self, scope: str) -> AESGCM:
        return AESGCM(self._derive(b"scope\0" + scope.encode()))

    def close(self, packed: bytes, key: bytes, scope: str) -> bytes:
        """Prefix, nonce, ciphertext."""
        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + self._of(scope).encrypt(nonce, packed, _SEALED + key)

    def open(self, kept: bytes, key: bytes, scope: str) -> bytes | None:
        """See :class:`Envelope`."""
        at = len(_SEALED)
        if kept[:at] != _SEALED or len(kept) < at + _NONCE + 16:
            return None
        try:
            return self._of(scope).decrypt(kept[at : at + _NONCE], kept[at + _NONCE :], _SEALED + key)
        except InvalidTag:
            return None


def _digest(packed: bytes, key: bytes, scope: str) -> bytes:
    return blake2b(
        packed, digest_size=_SUM, key=key, salt=b"gwcore", person=blake2b(scope.encode(), digest_size=16).digest()
    ).digest()

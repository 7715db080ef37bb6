"""What an entry looks like outside of this process: sealed under a secret of the stack file, or plain with a checksum.

Either way what was altered, or stands under another key than its own, does not open: it is no entry.
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
    """Closes and opens."""

    name: str
    index: bytes
    """What keys are made with, so that who reads the store cannot tell a prompt by its key."""

    def close(self, packed: bytes, key: bytes, scope: str) -> bytes:
        """For the store."""
        ...

    def open(self, kept: bytes, key: bytes, scope: str) -> bytes | None:
        """From the store; ``None`` for what was not closed under this key, scope, version and secret."""
        ...


class Plain:
    """Readable by whoever reads the store; a checksum finds what was altered by accident or stands in a wrong place."""

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
    """AES-256-GCM under a key of the scope's own (HKDF-SHA256); the entry's key and version are its associated data.

    Nonces are random: for one scope 2^32 entries may be sealed before a repetition is likelier than 2^-32.
    """

    name = "sealed"

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.index = self._derive(b"index")
        # not a method's cache: the secret must not outlive this object in one
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

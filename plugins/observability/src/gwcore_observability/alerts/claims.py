"""Claims: of all workers that see the same finding, only one sends the alert.

A claim is held as long as the finding lasts, and renewed at every check. If the store cannot be reached, a claim
succeeds: an alert sent twice is better than none.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

import structlog

from gwcore.patience import patience
from gwcore.resources import redis_client

LEASE: Final = 60
"""Seconds after which a dead worker's claims expire."""
TIMEOUT: Final = 0.5
PAUSE: Final = 10.0
"""Seconds for which a store that failed is not queried again."""
_log = structlog.get_logger("gwcore.observability")

_TAKE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) and 1 or 0
"""
_FREE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Claims:
    """Claims of a single worker: all succeed."""

    async def take(self, subject: str) -> bool:  # noqa: ARG002 - for overriding
        """Claim the subject, or renew the claim; returns whether this worker sends its alerts."""
        return True

    async def free(self, subject: str) -> None:
        """Release the claim; the finding is over."""

    async def aclose(self) -> None:
        """Release all claims."""


class FileClaims(Claims):
    """Claims among workers of one machine: file locks in a folder, which the kernel frees when a worker dies."""

    def __init__(self, folder: Path, group: str = "") -> None:
        self._group = group
        self._folder = folder
        self._held: dict[str, int] = {}

    async def take(self, subject: str) -> bool:
        """Lock the subject's file."""
        if subject in self._held:
            return True
        name = _name(self._group, subject)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.warning("claims of alerts cannot be written", error=error.strerror)
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._held[subject] = handle
        return True

    async def free(self, subject: str) -> None:
        """Unlock it. The file stays, because unlinking it could unlink a file that another worker has locked."""
        handle = self._held.pop(subject, None)
        if handle is not None:
            os.close(handle)

    async def aclose(self) -> None:
        """Unlock all."""
        for subject in list(self._held):
            await self.free(subject)


class RedisClaims(Claims):
    """Claims among replicas with a common Redis: a key per subject that expires after ``LEASE`` seconds."""

    def __init__(self, url: str, group: str = "") -> None:
        self._group = group
        self._client = redis_client(url, TIMEOUT)
        self._name = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._held: set[str] = set()
        self._away = 0.0

    async def take(self, subject: str) -> bool:
        """Set the subject's key, or renew it."""
        if time.monotonic() < self._away:
            return True
        try:
            async with patience(TIMEOUT):
                mine = bool(await self._client.eval(_TAKE, 1, self._key(subject), self._name, LEASE))
        except Exception as error:  # whatever it is, the alert must be sent
            self._away = time.monotonic() + PAUSE
            _log.warning("store of alerts is unreachable; every replica tells", error=type(error).__name__)
            return True
        (self._held.add if mine else self._held.discard)(subject)
        return mine

    async def free(self, subject: str) -> None:
        """Delete the key; if the store does not answer, it expires."""
        self._held.discard(subject)
        with suppress(Exception):
            async with patience(TIMEOUT):
                await self._client.eval(_FREE, 1, self._key(subject), self._name)

    def _key(self, subject: str) -> str:
        return f"gwcore:alerts:{_name(self._group, subject)}"

    async def aclose(self) -> None:
        """Delete all keys and disconnect."""
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * TIMEOUT):
                for subject in list(self._held):
                    await self.free(subject)
        await self._client.aclose()


def _name(group: str, subject: str) -> str:
    return blake2b(f"{group}|{subject}".encode(), digest_size=16).hexdigest()

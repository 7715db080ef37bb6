"""JWTs of an identity provider as credentials: verifies signature, issuer, audience, time; claims name the caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import jwt
import orjson
import structlog

from gwcore.errors import GatewayError, StoreUnavailable, Unauthenticated
from gwcore.plugin import Setup
from gwcore.sql import storable
from gwcore.wire.transport import Origin, Request, Timeouts
from gwcore_auth.config import JwtConfig

_log = structlog.get_logger("gwcore.auth")
_TIMEOUTS = Timeouts(5.0, 5.0, 5.0, 5.0)
"""Of one request to the provider; the last limits its total time, however slowly data arrives."""
_FRESH = 300.0
"""Seconds after which the provider's keys are fetched again; a key that it withdraws is accepted until then."""
_ASK_AGAIN = 10.0
"""Minimum seconds between two fetches, so that unknown key ids sent by clients do not load the provider."""
_LARGEST = 1 << 20
_REFUSED = "Authentication Error, this token is not accepted."


def looks_like(text: str) -> bool:
    """Whether a credential looks like a compact JWS: a JSON header and two dots."""
    return text.startswith("eyJ") and text.count(".") == 2


class Tokens:
    """Verifies tokens of one issuer."""

    def __init__(self, config: JwtConfig, setup: Setup) -> None:
        self.config = config
        self._keys = _KeySet(config, setup)

    async def claims(self, token: str) -> Mapping[str, Any]:
        """The claims of a valid token; ``exp`` is a ``float``, and every store can hold the names in it.

        Raises:
            Unauthenticated: the token is invalid. The answer does not say why; the log does.
            StoreUnavailable: the provider's keys cannot be fetched, so nothing was decided.
        """
        config = self.config
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in config.algorithms:
                raise jwt.InvalidAlgorithmError
            key: Any = config.public_key or await self._keys.get(header.get("kid"))
            said = jwt.decode(
                token,
                key,
                algorithms=list(config.algorithms),
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            said["exp"] = float(said["exp"])
            names = config.claims
            for path in ("sub", names.user, names.team, names.organisation):
                if not all(map(storable, claim(said, path))):
                    raise jwt.InvalidTokenError
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            _log.info("token refused", reason=type(error).__name__)
            raise Unauthenticated(_REFUSED) from None
        return said


class _KeySet:
    """The provider's public keys by id."""

    def __init__(self, config: JwtConfig, setup: Setup) -> None:
        self._config = config
        self._direct = setup.transport()
        proxies = {} if config.public_key else getproxies()
        self._proxied = {
            scheme: setup.transport(proxy=proxy if "://" in proxy else f"http://{proxy}")
            for scheme, proxy in proxies.items()
            if scheme in {"http", "https"}
        }
        self._lock = asyncio.Lock()
        self._keys: dict[str | None, Any] = {}
        self._asked = float("-inf")
        self._answered = float("-inf")

    async def get(self, kid: str | None) -> Any:
        """One key. Raises ``jwt.InvalidKeyError`` if the provider has no such key, and ``StoreUnavailable``."""
        # a known key must not wait for the lock: an unknown key id causes a fetch, which may take long
        if kid in self._keys and time.monotonic() - self._answered < _FRESH:
            return self._keys[kid]
        async with self._lock:
            now = time.monotonic()
            stale = now - self._answered >= _FRESH
            if (stale or kid not in self._keys) and now - self._asked >= _ASK_AGAIN:
                self._asked = now
                try:
                    self._keys = await self._fetch()
                    self._answered, stale = now, False
                except (GatewayError, ValueError, TypeError, KeyError, AttributeError, jwt.PyJWTError) as error:
                    _log.error("the identity provider's keys cannot be had", error=type(error).__name__)
            if stale:
                raise StoreUnavailable("the identity provider does not answer", retry_after=5)
        if kid not in self._keys:
            raise jwt.InvalidKeyError
        return self._keys[kid]

    async def _fetch(self) -> dict[str | None, Any]:
        issuer, url = self._config.issuer, self._config.jwks_url
        if url is None:
            found = orjson.loads(await self._get(issuer.rstrip("/") + "/.well-known/openid-configuration"))
            if found["issuer"] != issuer:
                raise ValueError("the discovery document is of another issuer")
            url = found["jwks_uri"]
            if issuer.startswith("https:") and not url.startswith("https:"):
                raise ValueError("keys are to be had without TLS only")
        return await asyncio.to_thread(_read, await self._get(url))

    async def _get(self, url: str) -> bytes:
        """The body of a 200. Follows no redirects, as one could point to any address. Raises ``ValueError``."""
        origin, parts = Origin.of(url), urlsplit(url)  # rejects file: URLs, even from a discovery document
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        asking = Request("GET", origin, target, [(b"accept", b"application/json")], timeouts=_TIMEOUTS)
        way = self._direct if proxy_bypass(origin.host) else self._proxied.get(origin.scheme, self._direct)
        answer = await way.send(asking)
        try:
            if answer.status != 200:
                raise ValueError("no 200")
            text = b""
            while chunk := await answer.read():
                text += chunk
                if len(text) > _LARGEST:
                    raise ValueError("too long")
        finally:
            answer.close()
        return text


def _read(text: bytes) -> dict[str | None, Any]:
    keys = jwt.PyJWKSet.from_dict(orjson.loads(text))  # skips unusable keys; raises if none is left
    return {key.key_id: key.key for key in keys.keys if key.public_key_use in {None, "sig"}}


def claim(claims: Mapping[str, Any], path: str | None) -> list[str]:
    """The non-empty strings at a dotted name: none, one, or those of a list."""
    found: Any = claims
    for part in path.split(".") if path else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    if path is None or found is None:
        return []
    listed = found if isinstance(found, list) else [found]
    return [one for one in listed if isinstance(one, str) and one]

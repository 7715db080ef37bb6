"""JWTs of an identity provider as credentials: verified by signature, issuer, audience and time; claims say who it is."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import jwt
import structlog

from gwcore.errors import StoreUnavailable, Unauthenticated
from gwcore_auth.config import JwtConfig

_log = structlog.get_logger("gwcore.auth")
_TIMEOUT = 5.0
_FRESH = 300.0
"""Seconds after which the provider's keys are asked for again: so long does a key live that it takes back."""
_ASK_AGAIN = 10.0
"""Seconds between two requests to the provider, whatever clients send: key ids that nobody knows cost it nothing."""
_LARGEST = 1 << 20
_REFUSED = "Authentication Error, this token is not accepted."


def looks_like(text: str) -> bool:
    """Whether a credential is a compact JWS, of two dots and a JSON header."""
    return text.startswith("eyJ") and text.count(".") == 2


class Tokens:
    """Verifies tokens of one issuer."""

    def __init__(self, config: JwtConfig) -> None:
        self.config = config
        self._keys = _KeySet(config)

    async def claims(self, token: str) -> Mapping[str, Any]:
        """The claims of a valid token.

        Raises:
            Unauthenticated: anything about it is wrong. The answer does not say what; the log does.
            StoreUnavailable: the provider's keys cannot be had, so nothing was decided.
        """
        config = self.config
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in config.algorithms:
                raise jwt.InvalidAlgorithmError
            key: Any = config.public_key or await self._keys.get(header.get("kid"))
            return jwt.decode(
                token,
                key,
                algorithms=list(config.algorithms),
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            _log.info("token refused", reason=type(error).__name__)
            raise Unauthenticated(_REFUSED) from None


class _KeySet:
    """The provider's public keys by id."""

    def __init__(self, config: JwtConfig) -> None:
        self._config = config
        self._lock = asyncio.Lock()
        self._keys: dict[str | None, Any] = {}
        self._asked = float("-inf")
        self._answered = float("-inf")

    async def get(self, kid: str | None) -> Any:
        """One key. Raises ``jwt.InvalidKeyError`` for none of the provider's, ``StoreUnavailable``."""
        async with self._lock:
            now = time.monotonic()
            stale = now - self._answered >= _FRESH
            if (stale or kid not in self._keys) and now - self._asked >= _ASK_AGAIN:
                self._asked = now
                try:
                    self._keys = await asyncio.to_thread(_fetch, self._config)
                    self._answered, stale = now, False
                except (OSError, ValueError, TypeError, KeyError, jwt.PyJWTError) as error:
                    _log.error("the identity provider's keys cannot be had", error=type(error).__name__)
            if stale:
                raise StoreUnavailable("the identity provider does not answer", retry_after=5)
        if kid not in self._keys:
            raise jwt.InvalidKeyError
        return self._keys[kid]


def _fetch(config: JwtConfig) -> dict[str | None, Any]:
    url = config.jwks_url
    if url is None:
        found = _get(config.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found["issuer"] != config.issuer:
            raise ValueError("the discovery document is of another issuer")
        url = found["jwks_uri"]
        if config.issuer.startswith("https:") and not url.startswith("https:"):
            raise ValueError("keys are to be had without TLS only")
    keys = jwt.PyJWKSet.from_dict(_get(url))  # leaves out what it cannot use; raises if that is all
    return {key.key_id: key.key for key in keys.keys if key.public_key_use in {None, "sig"}}


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other that is not 200: whoever can send one chooses no address for us."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


def _get(url: str) -> Any:
    if not url.startswith(("https://", "http://")):  # never a file, whatever a discovery document says
        raise ValueError("no http URL")
    try:
        with _OPENER.open(url, timeout=_TIMEOUT) as answer:
            text = answer.read(_LARGEST + 1)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    if len(text) > _LARGEST:
        raise ValueError("too long")
    return json.loads(text)


def claim(claims: Mapping[str, Any], path: str | None) -> list[str]:
    """The texts under a dotted name: none, one, or a list's."""
    found: Any = claims
    for part in path.split(".") if path else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    if path is None or found is None:
        return []
    listed = found if isinstance(found, list) else [found]
    return [one for one in listed if isinstance(one, str) and one]

"""JWTs of an identity provider as credentials: verified by signature, issuer, audience and time; claims say who it is."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import jwt
import structlog
from jwt import PyJWKClient

from gwcore.errors import StoreUnavailable, Unauthenticated
from gwcore_auth.config import JwtConfig

_log = structlog.get_logger("gwcore.auth")
_TIMEOUT = 5.0
_ASK_AGAIN = 10.0
_REFUSED = "Authentication Error, this token is not accepted."


def looks_like(text: str) -> bool:
    """Whether a credential is a compact JWS, of two dots and a JSON header."""
    return text.startswith("eyJ") and text.count(".") == 2


class Tokens:
    """Verifies tokens of one issuer."""

    def __init__(self, config: JwtConfig) -> None:
        self.config = config
        self._keys: PyJWKClient | None = None
        self._asked = -_ASK_AGAIN

    async def claims(self, token: str) -> Mapping[str, Any]:
        """The claims of a valid token.

        Raises:
            Unauthenticated: anything about it is wrong. The answer does not say what; the log does.
            StoreUnavailable: the provider's keys cannot be had, so nothing was decided.
        """
        config = self.config
        try:
            if config.public_key is not None:
                key: Any = config.public_key
            else:
                key = await asyncio.to_thread(self._key_for, token)
            return jwt.decode(
                token,
                key,
                algorithms=list(config.algorithms),
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWKClientConnectionError as error:
            _log.error("the identity provider's keys cannot be had", error=type(error).__name__)
            raise StoreUnavailable("the identity provider does not answer", retry_after=5) from None
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            _log.info("token refused", reason=type(error).__name__)
            raise Unauthenticated(_REFUSED) from None

    def _key_for(self, token: str) -> Any:
        wanted = jwt.get_unverified_header(token).get("kid")
        if self._keys is None:
            url = self.config.jwks_url or _discover(self.config.issuer)
            self._keys = PyJWKClient(url, cache_jwk_set=True, lifespan=300, timeout=int(_TIMEOUT))
        for key in self._keys.get_signing_keys():
            if key.key_id == wanted:
                return key.key
        # keys rotate; but who invents key ids must not make us ask the provider for each
        if time.monotonic() - self._asked > _ASK_AGAIN:
            self._asked = time.monotonic()
            for key in self._keys.get_signing_keys(refresh=True):
                if key.key_id == wanted:
                    return key.key
        raise jwt.InvalidTokenError("no such key")


def _discover(issuer: str) -> str:
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    if not url.startswith(("https://", "http://")):
        raise jwt.PyJWKClientConnectionError("the issuer is no URL")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:  # noqa: S310 - the scheme is checked above
            document = json.load(answer)
        return str(document["jwks_uri"])
    except (OSError, ValueError, KeyError, TypeError):
        raise jwt.PyJWKClientConnectionError("discovery failed") from None


def claim(claims: Mapping[str, Any], path: str | None) -> list[str]:
    """The texts under a dotted name: none, one, or a list's."""
    found: Any = claims
    for part in path.split(".") if path else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    if path is None or found is None:
        return []
    listed = found if isinstance(found, list) else [found]
    return [one for one in listed if isinstance(one, str) and one]

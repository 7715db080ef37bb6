"""Google's OAuth tokens, through google-auth. Imported only if a stack file uses them.

google-auth blocks, so it runs in a thread. Why google-auth: ``docs/decisions``, "Cloud credentials".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import google.auth
import google.auth.aws
import google.auth.exceptions
import google.auth.identity_pool
import google.auth.transport
import google.oauth2.credentials
import google.oauth2.service_account
import httpx2

from gwcore.wire.transport import Headers
from gwcore_providers.expiring import Unavailable

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
MARGIN = 225.0
"""Seconds before expiry at which google-auth itself renews; Google's metadata server issues no new token sooner."""

_TIMEOUT = 30.0


class _Response(google.auth.transport.Response):
    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def data(self) -> bytes:
        return self._response.content


class _Request(google.auth.transport.Request):
    """Sends google-auth's requests with httpx2, which is installed anyway; proxies come from the environment."""

    def __init__(self) -> None:
        self._client = httpx2.Client(timeout=_TIMEOUT, follow_redirects=False)

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> google.auth.transport.Response:
        try:
            response = self._client.request(method, url, content=body, headers=headers, timeout=timeout or _TIMEOUT)
        except httpx2.HTTPError as error:
            raise google.auth.exceptions.TransportError(type(error).__name__) from error  # type: ignore[no-untyped-call]
        return _Response(response)

    def close(self) -> None:
        self._client.close()


def load(document: str | None, request: google.auth.transport.Request) -> Any:
    """Returns credentials from a key file's text, or Application Default Credentials. Blocks.

    Raises:
        Unavailable: a type of key that is not accepted as text.
        google.auth.exceptions.GoogleAuthError: there are no credentials, or they cannot be read.
    """
    if document is None:
        found, _ = google.auth.default(scopes=SCOPES, request=request)
        return found
    info = json.loads(document)
    kind = info.get("type")
    if kind == "service_account":
        return google.oauth2.service_account.Credentials.from_service_account_info(info, scopes=SCOPES)  # type: ignore[no-untyped-call]
    if kind == "authorized_user":
        return google.oauth2.credentials.Credentials.from_authorized_user_info(info, scopes=SCOPES)  # type: ignore[no-untyped-call]
    if kind == "external_account":
        source = info.get("credential_source") or {}
        pool = google.auth.aws if "environment_id" in source else google.auth.identity_pool
        return pool.Credentials.from_info(info, scopes=SCOPES)
    raise Unavailable("a key of this type is only taken from GOOGLE_APPLICATION_CREDENTIALS")


class Tokens:
    """Fetches authentication headers, for :class:`gwcore_providers.expiring.Expiring`."""

    def __init__(self, document: str | None) -> None:
        self._document = document
        self._credentials: Any = None

    async def __call__(self) -> tuple[Headers, float]:
        """Returns the headers, and the epoch second at which they expire."""
        return await asyncio.to_thread(self._refresh)

    def _refresh(self) -> tuple[Headers, float]:
        request = _Request()
        try:
            if self._credentials is None:
                self._credentials = load(self._document, request)
            credentials = self._credentials
            credentials.refresh(request)
        finally:
            request.close()
        headers: Headers = [(b"authorization", b"Bearer " + str(credentials.token).encode())]
        if project := getattr(credentials, "quota_project_id", None):
            headers.append((b"x-goog-user-project", project.encode()))
        # google-auth's times are naive, in UTC
        return headers, credentials.expiry.replace(tzinfo=UTC).timestamp()

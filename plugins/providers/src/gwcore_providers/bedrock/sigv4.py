"""AWS Signature Version 4.

Source: "Create a signed AWS API request" of the IAM user guide; the tests use AWS's published vectors.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from urllib.parse import parse_qsl, quote

from gwcore.wire.transport import Headers, Request


@dataclass(slots=True, frozen=True)
class Credentials:
    """Credentials of one principal. Only temporary ones have a ``session_token``."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(slots=True, frozen=True)
class Scope:
    """Region and service that a signature is for."""

    region: str
    service: str


def sign(credentials: Credentials, scope: Scope, request: Request, headers: Headers, now: datetime) -> Headers:
    """Returns the headers to add: ``x-amz-date``, ``x-amz-security-token`` if there is one, and ``authorization``.

    Args:
        credentials: to sign with.
        scope: service and region.
        request: its method, target and body are signed. The path is encoded once more, as every service except S3
            requires; it is not normalised, since none of our paths contains a dot segment.
        headers: the ones to sign, including ``host``; lower-case names.
        now: UTC.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    added: Headers = [(b"x-amz-date", stamp.encode())]
    if credentials.session_token is not None:
        added.append((b"x-amz-security-token", credentials.session_token.encode()))
    names, block = _canonical_headers([*headers, *added])
    path, _, query = request.target.partition("?")
    canonical = "\n".join(
        (
            request.method,
            quote(path, safe="/~"),
            _canonical_query(query),
            block,
            names,
            sha256(request.body).hexdigest(),
        )
    )
    where = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{where}\n{sha256(canonical.encode()).hexdigest()}"
    key = _signing_key(credentials.secret_access_key, stamp[:8], scope.region, scope.service)
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    value = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{where}, SignedHeaders={names}, Signature={signature}"
    )
    return [*added, (b"authorization", value.encode())]


def _canonical_headers(headers: Headers) -> tuple[str, str]:
    """Returns the names joined by semicolons, and one line per name with its values in order, spaces collapsed."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(" ".join(value.decode("latin-1").split()))
    return ";".join(sorted(found)), "".join(f"{name}:{','.join(found[name])}\n" for name in sorted(found))


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    return "&".join("=".join(pair) for pair in sorted((quote(n, safe="~"), quote(v, safe="~")) for n, v in pairs))


@lru_cache(32)  # one key per day and credential
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key

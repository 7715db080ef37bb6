"""AWS Signature Version 4.

Source: "Create a signed AWS API request" of the IAM user guide; the tests hold AWS's published vectors.
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
    """Of one principal. ``session_token`` comes with those that expire."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(slots=True, frozen=True)
class Scope:
    """What a signature is good for, a day long."""

    region: str
    service: str


def sign(credentials: Credentials, scope: Scope, request: Request, headers: Headers, now: datetime) -> Headers:
    """The headers to add: ``x-amz-date``, ``x-amz-security-token`` if there is one, and ``authorization``.

    Args:
        credentials: who signs.
        scope: for which service, and where.
        request: its method, target and body are signed. The path is encoded once more, as every service but S3 wants
            it; it is not normalised, since no address of ours holds a dot segment.
        headers: the ones to sign, ``host`` among them; lower-case names.
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
    """Names joined by semicolons, and one line per name with its values in their order, blanks squeezed."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(" ".join(value.decode("latin-1").split()))
    return ";".join(sorted(found)), "".join(f"{name}:{','.join(found[name])}\n" for name in sorted(found))


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    return "&".join("=".join(pair) for pair in sorted((quote(n, safe="~"), quote(v, safe="~")) for n, v in pairs))


@lru_cache(32)  # of a day, per credential in use
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key

"""Signature Version 4 against AWS's published test suite.

Vectors: awslabs/aws-c-auth, tests/aws-signing-test-suite/v4, ``*/header-signed-request.txt`` (Apache-2.0), without those about
normalising dot segments and about folded headers: no address of ours holds the ones, no request the others.
"""

import dataclasses
from datetime import UTC, datetime

import pytest

from gwcore.wire.transport import Origin, Request
from gwcore_providers.bedrock.sigv4 import Credentials, Scope, sign

KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SCOPE = Scope("us-east-1", "service")
NOW = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC)
TOKEN = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
STS_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7"
    "mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d"
    "+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGEST = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"


def form(content_type):
    return [
        ("content-type", content_type),
        ("content-length", "13"),
        ("x-amz-content-sha256", DIGEST),
    ]


# name: method, target, headers beside host, body, session token, signature
VECTORS = {
    "get-vanilla": ("GET", "/", [], b"", None, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "get-vanilla-query-order-key-case": ("GET", "/?Param2=value2&Param1=value1", [], b"", None, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    "get-vanilla-query-order-encoded": ("GET", "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1", [], b"", None, "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac"),
    "get-vanilla-query-unreserved": ("GET", f"/?{UNRESERVED}={UNRESERVED}", [], b"", None, "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
    "get-vanilla-empty-query-key": ("GET", "/?Param1=value1", [], b"", None, "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
    "get-vanilla-utf8-query": ("GET", "/?ሴ=bar", [], b"", None, "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
    "get-unreserved": ("GET", f"/{UNRESERVED}", [], b"", None, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
    "get-utf8": ("GET", "/ሴ", [], b"", None, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    "get-space-unnormalized": ("GET", "/example space/", [], b"", None, "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
    "get-slashes-unnormalized": ("GET", "//example//", [], b"", None, "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5"),
    "get-relative-unnormalized": ("GET", "/example/..", [], b"", None, "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282"),
    "get-header-key-duplicate": ("GET", "/", [("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1")], b"", None, "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"),
    "get-header-value-order": ("GET", "/", [("my-header1", f"value{n}") for n in (4, 1, 3, 2)], b"", None, "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"),
    "get-header-value-trim": ("GET", "/", [("my-header1", " value1"), ("my-header2", ' "a   b   c"')], b"", None, "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
    "get-vanilla-with-session-token": ("GET", "/", [], b"", TOKEN, "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"),
    "post-vanilla-query": ("POST", "/?Param1=value1", [], b"", None, "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"),
    "post-header-key-sort": ("POST", "/", [("my-header1", "value1")], b"", None, "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"),
    "post-sts-header-before": ("POST", "/", [], b"", STS_TOKEN, "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
    "post-x-www-form-urlencoded": ("POST", "/", form("application/x-www-form-urlencoded"), b"Param1=value1", None, "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"),
    "post-x-www-form-urlencoded-parameters": ("POST", "/", form("application/x-www-form-urlencoded; charset=utf-8"), b"Param1=value1", None, "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422"),
}  # fmt: skip


def signed(method, target, headers, body, token):
    request = Request(method, Origin("https", "example.amazonaws.com", 443), target, [], body)
    raw = [(b"host", b"example.amazonaws.com"), *((name.encode(), value.encode()) for name, value in headers)]
    return dict(sign(dataclasses.replace(KEYS, session_token=token), SCOPE, request, raw, NOW))


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors(name):
    *given, signature = VECTORS[name]
    added = signed(*given)
    assert added[b"authorization"].endswith(b"Signature=" + signature.encode())
    assert added[b"authorization"].startswith(
        b"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders="
    )
    assert added[b"x-amz-date"] == b"20150830T123600Z"
    assert added.get(b"x-amz-security-token") == (given[4].encode() if given[4] else None)


@pytest.mark.parametrize("changed", [0, 1, 2, 3, 4])
def test_whatever_changes_changes_the_signature(changed):
    base = ["POST", "/a?b=c", [("content-type", "x")], b"body", "token"]
    other = list(base)
    other[changed] = ["GET", "/a?b=d", [("content-type", "y")], b"Body", "other"][changed]
    assert signed(*base)[b"authorization"] != signed(*other)[b"authorization"]


def test_no_secret_in_a_repr():
    keys = dataclasses.replace(KEYS, session_token=TOKEN)
    assert KEYS.secret_access_key not in repr(keys) and TOKEN not in repr(keys)

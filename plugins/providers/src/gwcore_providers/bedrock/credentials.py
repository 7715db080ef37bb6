"""Sources of AWS credentials, in the order of AWS's SDKs. Why not an SDK: ``docs/decisions``, "Cloud credentials".

Source: "Standardized credential providers" of the AWS SDKs and Tools Reference Guide.
"""

from __future__ import annotations

import asyncio
import math
import re
import shlex
import time
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from gwcore.errors import GatewayError
from gwcore.wire.http1 import Http1Transport
from gwcore.wire.transport import Headers, Origin, Request, Timeouts, Tls
from gwcore_providers.bedrock.sigv4 import Credentials, Scope, sign
from gwcore_providers.expiring import Unavailable

Found = tuple[Credentials, float]
"""The credentials, and the epoch second at which they expire."""

MARGIN = 600.0
"""Seconds before expiry at which to renew; instances have new credentials at least five minutes before."""

_FILE_LIFE = MARGIN + 300.0  # so that a file is reread every five minutes: tools rewrite it
_TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=10.0)
_ANSWER_CAP = 1 << 20
_CONTAINER_HOSTS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")
_STS_FIELDS = re.compile(r"<(AccessKeyId|SecretAccessKey|SessionToken|Expiration)>([^<]+)</")


async def default(environ: Mapping[str, str], region: str) -> Found:
    """Returns credentials of the first configured source.

    The order is: environment, web identity, profile files, container, instance.

    Raises:
        Unavailable: no source is configured, or that source fails; the text says which.
    """
    return (
        _environment(environ)
        or await _web_identity(environ, region)
        or await profile(environ, environ.get("AWS_PROFILE", "default"), wanted="AWS_PROFILE" in environ)
        or await _container(environ)
        or await _instance(environ)
    )


async def assumed(credentials: Credentials, role: str, environ: Mapping[str, str], region: str) -> Found:
    """Returns credentials of another role, assumed with the given ones."""
    return await _sts(environ, region, {"Action": "AssumeRole", "RoleArn": role}, credentials)


def _environment(environ: Mapping[str, str]) -> Found | None:
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        return None
    return Credentials(key, secret, environ.get("AWS_SESSION_TOKEN")), math.inf


async def _web_identity(environ: Mapping[str, str], region: str) -> Found | None:
    file, role = environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), environ.get("AWS_ROLE_ARN")
    if not file or not role:
        return None
    token = (await _text(file, "the web identity token")).strip()
    fields = {"Action": "AssumeRoleWithWebIdentity", "RoleArn": role, "WebIdentityToken": token}
    return await _sts(environ, region, fields, None)


async def profile(environ: Mapping[str, str], name: str, *, wanted: bool) -> Found | None:
    """Reads a profile of the shared files; ``None`` if it does not exist and is not ``wanted``."""
    section = await asyncio.to_thread(_section, environ, name)
    if "aws_access_key_id" in section and "aws_secret_access_key" in section:
        found = Credentials(
            section["aws_access_key_id"], section["aws_secret_access_key"], section.get("aws_session_token")
        )
        return found, time.time() + _FILE_LIFE
    if "credential_process" in section:
        return await _process(section["credential_process"])
    if section:
        raise Unavailable(
            f"the AWS profile {name} has neither keys nor a credential_process; for SSO set "
            "credential_process = aws configure export-credentials --profile NAME"
        )
    if wanted:
        raise Unavailable(f"no AWS profile {name}")
    return None


def _section(environ: Mapping[str, str], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    files = (
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    )
    for variable, default_name, section in files:
        path = environ.get(variable)
        parser = ConfigParser(interpolation=None, default_section="\0")
        try:
            parser.read(Path(path) if path else Path.home() / ".aws" / default_name, encoding="utf-8")
        except (ConfigError, UnicodeDecodeError, OSError) as error:
            raise Unavailable(f"the AWS {default_name} file cannot be read: {type(error).__name__}") from None
        if parser.has_section(section):
            found.update(parser[section])
    return found


async def _process(command: str) -> Found:
    process = await asyncio.create_subprocess_exec(*shlex.split(command), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            said = await process.stdout.read(_ANSWER_CAP)
            status = await process.wait()
    except TimeoutError:
        raise Unavailable("the credential_process said nothing for a minute") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        raise Unavailable(f"the credential_process ended with status {status}")
    return _found(said, "SessionToken", "the credential_process")


async def _container(environ: Mapping[str, str]) -> Found | None:
    url, relative = (
        environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    )
    if relative:
        url = f"http://{_CONTAINER_HOSTS[0]}{relative}"
    if not url:
        return None
    origin = Origin.of(url)
    if origin.scheme != "https" and not _trusted(origin.host):
        raise Unavailable("AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor an address of this host")
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if file := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        token = (await _text(file, "the container's authorization token")).strip()
    body = await _fetch(_request("GET", url, [(b"authorization", token.encode())] if token else []))
    return _found(body, "Token", "the container's credential service")


def _trusted(host: str) -> bool:
    try:
        return host in _CONTAINER_HOSTS or ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _instance(environ: Mapping[str, str]) -> Found:
    nowhere = "no AWS credentials in the environment, the shared files, a container's service or instance metadata"
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise Unavailable(nowhere)
    root = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/") + "/latest"
    try:
        token = await _fetch(
            _request("PUT", f"{root}/api/token", [(b"x-aws-ec2-metadata-token-ttl-seconds", b"21600")])
        )
    except Unavailable:
        raise Unavailable(nowhere) from None
    headers: Headers = [(b"x-aws-ec2-metadata-token", token)]
    roles = f"{root}/meta-data/iam/security-credentials/"
    role = (await _fetch(_request("GET", roles, headers))).decode("ascii", "replace").strip()
    return _found(await _fetch(_request("GET", roles + role, headers)), "Token", "instance metadata")


async def _sts(
    environ: Mapping[str, str], region: str, fields: Mapping[str, str], credentials: Credentials | None
) -> Found:
    url = environ.get("AWS_ENDPOINT_URL_STS", f"https://sts.{region}.amazonaws.com").rstrip("/") + "/"
    session = environ.get("AWS_ROLE_SESSION_NAME", "gwcore")
    request = _request("POST", url, [(b"content-type", b"application/x-www-form-urlencoded")])
    request.body = urlencode({"Version": "2011-06-15", "RoleSessionName": session, **fields}).encode()
    if credentials is not None:
        signed = [*request.headers, (b"host", request.origin.authority.encode())]
        request.headers += sign(credentials, Scope(region, "sts"), request, signed, datetime.now(UTC))
    said = dict(_STS_FIELDS.findall((await _fetch(request)).decode("utf-8", "replace")))
    return _found(orjson.dumps(said), "SessionToken", "AWS STS")


async def _text(path: str, what: str) -> str:
    try:
        return await asyncio.to_thread(Path(path).read_text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{what} cannot be read: {type(error).__name__}") from None


def _request(method: str, url: str, headers: Headers) -> Request:
    target = "/" + url.split("://", 1)[1].partition("/")[2]
    return Request(method, Origin.of(url), target, headers, timeouts=_TIMEOUTS)


async def _fetch(request: Request) -> bytes:
    """Returns the body of a 200. Never uses a proxy, which could read it."""
    transport = Http1Transport(Tls())
    try:
        response = await transport.send(request)
        said = b""
        while len(said) < _ANSWER_CAP and (chunk := await response.read()):
            said += chunk
        response.close()
    except GatewayError as error:
        raise Unavailable(f"{request.origin.host} cannot be asked: {error.code}") from None
    finally:
        await transport.aclose()
    if response.status != 200:
        raise Unavailable(f"{request.origin.host} answered {response.status}")
    return said


def _found(body: bytes, token: str, source: str) -> Found:
    """Reads credentials from the JSON common to all sources; ``token`` is the key of the session token."""
    try:
        said: Any = orjson.loads(body)
        credentials = Credentials(said["AccessKeyId"], said["SecretAccessKey"], said.get(token))
        expires = said.get("Expiration")
        return credentials, datetime.fromisoformat(expires).timestamp() if expires else time.time() + _FILE_LIFE
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unavailable(f"{source} answered without credentials") from None

"""Where AWS credentials come from: each source against a server or a file of its own, in the order of AWS's SDKs."""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_providers.bedrock import credentials
from gwcore_providers.bedrock.provider import AwsCredentials, AwsOptions
from gwcore_providers.bedrock.sigv4 import Credentials
from gwcore_providers.expiring import Unavailable

END = "2030-01-02T03:04:05Z"
END_AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
BASE = {
    "AWS_CONFIG_FILE": "/nonexistent/a",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/b",
    "AWS_EC2_METADATA_DISABLED": "true",
}
GIVEN = json.dumps({"AccessKeyId": "AK", "SecretAccessKey": "SK", "Token": "ST", "Expiration": END}).encode()
STS = f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>AK2</AccessKeyId><SecretAccessKey>SK2</SecretAccessKey><SessionToken>ST2==</SessionToken>
<Expiration>{END}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>""".encode()


async def found(environ, region="eu-west-1"):
    return await credentials.default({**BASE, **environ}, region)


def files(tmp_path, config="", shared=""):
    (tmp_path / "config").write_text(config)
    (tmp_path / "credentials").write_text(shared)
    return {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}


async def test_the_environment():
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
    assert await found(keys) == (Credentials("AK", "SK"), float("inf"))
    assert (await found({**keys, "AWS_SESSION_TOKEN": "ST"}))[0].session_token == "ST"


async def test_nothing_is_said_by_name():
    with pytest.raises(Unavailable, match="no AWS credentials in the environment"):
        await found({})


async def test_a_profile_of_the_shared_files(tmp_path):
    environ = files(
        tmp_path,
        config="[default]\nregion = x\n[profile other]\nregion = y\n",
        shared="[default]\naws_access_key_id = AK\naws_secret_access_key = S%K\n[other]\naws_access_key_id = AK2\n"
        "aws_secret_access_key = SK2\naws_session_token = ST2\n",
    )
    first, ends = await found(environ)
    assert first == Credentials("AK", "S%K") and credentials.MARGIN < ends - time.time() < 3600
    assert (await found({**environ, "AWS_PROFILE": "other"}))[0] == Credentials("AK2", "SK2", "ST2")
    with pytest.raises(Unavailable, match="no AWS profile missing"):
        await found({**environ, "AWS_PROFILE": "missing"})


async def test_a_profile_for_sso_says_what_to_do(tmp_path):
    environ = files(tmp_path, config="[default]\nsso_session = corp\n")
    with pytest.raises(Unavailable, match="credential_process = aws configure export-credentials"):
        await found(environ)


async def test_a_file_that_cannot_be_read(tmp_path):
    environ = files(tmp_path, shared="no section here SECRETKEY\n")
    with pytest.raises(Unavailable, match="cannot be read") as refused:
        await found(environ)
    assert "SECRETKEY" not in str(refused.value)


async def test_a_credential_process(tmp_path):
    said = {"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "ST", "Expiration": END}
    (tmp_path / "said.json").write_text(json.dumps(said))
    tool = f"{sys.executable} -c \"print(open('{tmp_path}/said.json').read())\""
    environ = files(tmp_path, config=f"[default]\ncredential_process = {tool}\n")
    assert await found(environ) == (Credentials("AK", "SK", "ST"), END_AT)
    environ = files(tmp_path, config=f'[default]\ncredential_process = {sys.executable} -c "exit(3)"\n')
    with pytest.raises(Unavailable, match="ended with status 3"):
        await found(environ)


async def test_a_container_with_a_token_file(tmp_path):
    (tmp_path / "token").write_text("container-token\n")
    async with FakeUpstream(Answer(body=GIVEN)) as up:
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{up.url}/v1/credentials?x=y",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
        }
        assert await found(environ) == (Credentials("AK", "SK", "ST"), END_AT)
        (seen,) = up.requests
        assert (seen.method, seen.target) == ("GET", "/v1/credentials?x=y")
        assert seen.header("authorization") == "container-token"


@pytest.mark.parametrize("url", ["http://evil.example/creds", "http://10.0.0.1/creds", "http://169.254.169.254/x"])
async def test_a_container_service_is_https_or_of_this_host(url):
    with pytest.raises(Unavailable, match="neither https nor an address of this host"):
        await found({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url})


async def test_a_container_that_fails_is_not_passed_over():
    async with FakeUpstream(Answer(500)) as up:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1 answered 500"):
            await found({"AWS_CONTAINER_CREDENTIALS_FULL_URI": up.url, "AWS_EC2_METADATA_DISABLED": "false"})


async def test_instance_metadata_version_2():
    async with FakeUpstream(Answer(body=b"imds-token"), Answer(body=b"my-role\n"), Answer(body=GIVEN)) as up:
        environ = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": up.url}
        assert await found(environ) == (Credentials("AK", "SK", "ST"), END_AT)
        token, roles, role = up.requests
        assert (token.method, token.target) == ("PUT", "/latest/api/token")
        assert token.header("x-aws-ec2-metadata-token-ttl-seconds") == "21600"
        assert roles.target == "/latest/meta-data/iam/security-credentials/"
        assert role.target == "/latest/meta-data/iam/security-credentials/my-role"
        assert {s.header("x-aws-ec2-metadata-token") for s in (roles, role)} == {"imds-token"}


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"AccessKeyId":"A"}', b"<html>", b'{"Code":"Failed"}'])
async def test_an_answer_without_credentials(body):
    async with FakeUpstream(Answer(body=body)) as up:
        with pytest.raises(Unavailable, match="answered without credentials"):
            await found({"AWS_CONTAINER_CREDENTIALS_FULL_URI": up.url})


async def test_a_web_identity(tmp_path):
    (tmp_path / "jwt").write_text("the.jwt\n")
    async with FakeUpstream(Answer(body=STS)) as up:
        environ = {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "jwt"),
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
            "AWS_ENDPOINT_URL_STS": up.url,
        }
        assert await found(environ) == (Credentials("AK2", "SK2", "ST2=="), END_AT)
        (seen,) = up.requests
        sent = {name: values[0] for name, values in parse_qs(seen.body.decode()).items()}
        assert sent["Action"] == "AssumeRoleWithWebIdentity" and sent["WebIdentityToken"] == "the.jwt"
        assert seen.header("authorization") is None  # the token is the credential


async def test_a_role_assumed_with_static_keys(monkeypatch):
    async with FakeUpstream(Answer(body=STS)) as up:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", up.url)
        options = AwsOptions(
            region="eu-west-1", access_key_id="AK", secret_access_key="SK", role_arn="arn:aws:iam::1:role/r"
        )
        assert await AwsCredentials(options)() == (Credentials("AK2", "SK2", "ST2=="), END_AT)
        (seen,) = up.requests
        scope = f"Credential=AK/{datetime.now(UTC):%Y%m%d}/eu-west-1/sts/aws4_request"
        assert scope in seen.header("authorization")


async def test_a_refusal_of_sts_shows_no_token(tmp_path):
    (tmp_path / "jwt").write_text("the.secret.jwt")
    async with FakeUpstream(Answer(403, body=b"the.secret.jwt is bad")) as up:
        with pytest.raises(Unavailable) as refused:
            await found(
                {
                    "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "jwt"),
                    "AWS_ROLE_ARN": "r",
                    "AWS_ENDPOINT_URL_STS": up.url,
                }
            )
    assert str(refused.value) == "127.0.0.1 answered 403"


async def test_the_order(tmp_path, monkeypatch):
    """Each source is asked only when those before it are not set up."""
    environ = files(tmp_path, shared="[default]\naws_access_key_id = FILE\naws_secret_access_key = S\n")
    async with FakeUpstream(Answer(body=GIVEN)) as up:
        environ |= {"AWS_CONTAINER_CREDENTIALS_FULL_URI": up.url}
        assert (await found(environ))[0].access_key_id == "FILE"
        keys = {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "S"}
        assert (await found(environ | keys))[0].access_key_id == "ENV"
        for name, value in (environ | keys).items():
            monkeypatch.setenv(name, value)
        named = AwsOptions(region="x", profile="default")
        assert (await AwsCredentials(named)())[0].access_key_id == "FILE"
        static = AwsOptions(region="x", access_key_id="STACK", secret_access_key="S")
        assert (await AwsCredentials(static)())[0].access_key_id == "STACK"
        assert not up.requests
        assert (await found({"AWS_CONTAINER_CREDENTIALS_FULL_URI": up.url}))[0].access_key_id == "AK"


async def test_no_connection_stays_open():
    async with FakeUpstream(Answer(body=GIVEN)) as up:
        await found({"AWS_CONTAINER_CREDENTIALS_FULL_URI": up.url})
        async with asyncio.timeout(5):
            while up.open:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"region": "../x"},
        {"region": "x", "access_key_id": "A"},
        {"region": "x", "secret_access_key": "CANARY"},
        {"region": "x", "access_key_id": "A", "secret_access_key": "CANARY", "profile": "p"},
        {"region": "x", "unknown": 1},
    ],
)
def test_options_that_cannot_be(options):
    with pytest.raises(ValidationError) as refused:
        AwsOptions(**options)
    assert "CANARY" not in str(refused.value)

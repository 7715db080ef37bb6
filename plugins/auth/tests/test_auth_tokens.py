"""JWTs of an identity provider: a real one on loopback, whose keys rotate and which may be away."""

import asyncio
import base64
import json
import math
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.wire.transport import Timeouts
from gwcore_auth import tokens
from gwcore_auth.config import JwtConfig

RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
AUDIENCE = "gwcore"


class Provider:
    """Discovery and JWKS."""

    def __init__(self, up):
        self.up = up
        self.keys = {"r1": RSA}
        self.jwks_uri = f"{up.url}/jwks"
        self.issuer = up.url
        self.status = 200
        up.default = self.answer

    def answer(self, seen):
        if self.status != 200:
            return Answer(status=self.status, body=b"{}")
        if seen.target == "/jwks":
            return Answer(body=json.dumps({"keys": [jwk(kid, key) for kid, key in self.keys.items()]}).encode())
        return Answer(body=json.dumps({"issuer": self.issuer, "jwks_uri": self.jwks_uri}).encode())

    def token(self, key=RSA, kid="r1", alg="RS256", headers=None, **claims):
        now = int(time.time())
        said = {"iss": self.up.url, "aud": AUDIENCE, "sub": "alice", "exp": now + 600, "iat": now, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, key, alg, headers={"kid": kid, **(headers or {})})


def jwk(kid, key):
    kind = {rsa.RSAPrivateKey: "RSAAlgorithm", ec.EllipticCurvePrivateKey: "ECAlgorithm"}
    made = next((name for cls, name in kind.items() if isinstance(key, cls)), "OKPAlgorithm")
    return {**getattr(jwt.algorithms, made).to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


@pytest.fixture
async def idp():
    async with FakeUpstream() as up:
        yield Provider(up)


@pytest.fixture
def gateway(serve, sqlite_url, idp):
    @asynccontextmanager
    async def made(more="", jwt_more=""):
        settings = f"jwt: {{issuer: '{idp.up.url}', audience: {AUDIENCE}, {jwt_more}}}, {more}"
        async with serve(sqlite_url, auth=settings) as api:
            yield api

    return made


async def test_a_token_calls_as_its_user(gateway, idp, seen, upstream):
    claims = "claims: {team: groups, organisation: org, role: realm.roles}"
    async with gateway(jwt_more=claims) as api:
        await api.post("/organization/new", {"organization_id": "o", "organization_alias": "O"})
        await api.post("/team/new", {"team_id": "t", "models": ["m"], "max_budget": 5})
        token = idp.token(groups=["unknown", "t"], org="o")
        assert (await api.chat(token)).status_code == 200
        who = seen[-1]
        assert (who.id, who.user, who.team, who.organisation) == ("jwt:alice", "alice", "t", "o")
        assert who.policies["budget"]["team"].max_budget == 5 * 10**9
        assert (await api.chat(token, "n")).status_code == 403
        assert len(idp.up.requests) == 2  # discovery and keys, once for both
        assert not [value for seen in upstream.requests for _, value in seen.headers if token in value]
        for groups, org in ((["unknown"], "o"), (["t"], "nowhere")):
            assert (await api.chat(idp.token(groups=groups, org=org))).status_code == 401


def unsigned(idp):
    header, body, _ = idp.token().split(".")
    return {
        "none": f"{part({'alg': 'none', 'kid': 'r1'})}.{body}.",
        "None": f"{part({'alg': 'nOnE', 'kid': 'r1'})}.{body}.",
        "no signature": f"{header}.{body}.",
    }


def part(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def confused(idp):
    """The provider's public key used as the secret of an HMAC, in all of its spellings."""
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    found = {}
    for name, secret in (("pem", pem), ("der", der), ("jwk", json.dumps(jwk("r1", RSA)).encode())):
        header, body = part({"alg": "HS256", "typ": "JWT", "kid": "r1"}), idp.token().split(".")[1]
        signed = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
            f"{header}.{body}".encode(), secret
        )
        found[name] = f"{header}.{body}.{base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"
    return found


def wrong(idp):
    now = int(time.time())
    theirs = idp.token(OTHER)
    return {
        **unsigned(idp),
        **confused(idp),
        "another key": theirs,
        "another key under its own jwk": idp.token(OTHER, headers={"jwk": jwk("r1", OTHER)}),
        "keys from the token's own address": idp.token(OTHER, headers={"jku": "http://127.0.0.1:9/jwks"}),
        "unknown kid": idp.token(OTHER, kid="r2"),
        "kid as a path": idp.token(OTHER, kid="../../dev/null"),
        "another issuer": idp.token(iss="https://elsewhere.example"),
        "another audience": idp.token(aud="someone"),
        "no audience": idp.token(aud=None),
        "no issuer": idp.token(iss=None),
        "no subject": idp.token(sub=None),
        "no end": idp.token(exp=None),
        "over": idp.token(exp=now - 60),
        "not yet": idp.token(nbf=now + 600),
        "of tomorrow": idp.token(iat=now + 86_400),
        "an algorithm that is not taken": idp.token(alg="RS512"),
        "another body": ".".join(
            (idp.token().split(".")[0], idp.token(sub="root").split(".")[1], idp.token().split(".")[2])
        ),
        "an EC signature under an RSA key": idp.token(EC, alg="ES256"),
        "no user": idp.token(sub=""),
        "a NUL": idp.token(sub="a\0b"),
        "half a character": idp.token(sub="\ud800"),
        "a NUL in a claim that names nobody": idp.token(org="a\0b"),
        "an end that is no time": idp.token(exp=10**400),
    }


async def test_whatever_is_wrong_with_a_token_it_is_a_401(gateway, idp, upstream):
    async with gateway(jwt_more="claims: {organisation: org}") as api:
        said = {name: (await api.chat(token)).status_code for name, token in wrong(idp).items()}
        assert {name: status for name, status in said.items() if status != 401} == {}
        assert upstream.requests == []
        assert (await api.chat(idp.token())).status_code == 200  # the control


@pytest.mark.parametrize(
    ("option", "passes"),
    [
        ("verify_aud", {"another audience"}),
        ("verify_iss", {"another issuer"}),
        ("verify_nbf", {"not yet"}),
        ("verify_signature", {"another key", "none"}),
    ],
)
async def test_each_check_is_needed(gateway, idp, monkeypatch, option, passes):
    """Negative controls: without it, the tokens above get in."""
    original = jwt.decode

    def weaker(*args, options, **named):
        return original(*args, options={**options, option: False}, **named)

    monkeypatch.setattr(tokens.jwt, "decode", weaker)
    if option == "verify_signature":
        monkeypatch.setattr(JwtConfig, "algorithms", ["RS256", "none"], raising=False)
    async with gateway() as api:
        bad = wrong(idp)
        assert {name for name in passes if (await api.chat(bad[name])).status_code == 200} >= passes - {"none"}


@pytest.mark.parametrize(("key", "kid", "alg"), [(EC, "e1", "ES256"), (ED, "d1", "EdDSA"), (RSA, "r1", "RS256")])
async def test_keys_of_every_kind(gateway, idp, key, kid, alg):
    idp.keys = {"r1": RSA, "e1": EC, "d1": ED}
    async with gateway() as api:
        assert (await api.chat(idp.token(key, kid=kid, alg=alg))).status_code == 200


async def test_keys_rotate(gateway, idp, monkeypatch):
    monkeypatch.setattr(tokens, "_ASK_AGAIN", 0.0)
    monkeypatch.setattr(tokens, "_FRESH", 0.0)
    async with gateway() as api:
        assert (await api.chat(idp.token())).status_code == 200
        idp.keys = {"r2": OTHER}
        assert (await api.chat(idp.token(OTHER, kid="r2"))).status_code == 200
        assert (await api.chat(idp.token(sub="bob"))).status_code == 401  # the old key was taken back
    idp.keys = {"r1": RSA}


@pytest.mark.parametrize(("then", "status"), [("takes it back", 401), ("is away", 503)])
async def test_no_key_is_believed_for_longer_than_it_is_fresh(gateway, idp, monkeypatch, then, status):
    monkeypatch.setattr(tokens, "_ASK_AGAIN", 0.0)
    monkeypatch.setattr(tokens, "_FRESH", 0.0)
    async with gateway() as api:
        assert (await api.chat(idp.token())).status_code == 200
        if then == "is away":
            idp.status = 503
        else:
            idp.keys = {"r2": OTHER}
        assert (await api.chat(idp.token(sub="bob"))).status_code == status


@pytest.mark.parametrize(("use", "size", "status"), [("sig", 0, 200), ("enc", 0, 401), ("sig", 1 << 20, 503)])
async def test_keys_for_other_uses_and_lists_without_end_are_not_taken(gateway, idp, use, size, status):
    listed = [{**jwk("r1", RSA), "use": use}, jwk("r2", OTHER)]
    body = json.dumps({"keys": listed}).encode() + b" " * size
    plain = idp.answer
    idp.up.default = lambda seen: Answer(body=body) if seen.target == "/jwks" else plain(seen)
    async with gateway() as api:
        assert (await api.chat(idp.token())).status_code == status


@pytest.mark.parametrize(("scheme", "status"), [("https", 200), ("http", 503)])
async def test_an_issuer_with_tls_has_its_keys_by_tls(serve, sqlite_url, idp, monkeypatch, scheme, status):
    """Whoever is on the way to plain http would say which keys are believed."""
    issuer = "https://idp.example"
    found = {"issuer": issuer, "jwks_uri": f"{scheme}://idp.example/jwks"}

    async def told(_, url):
        document = found if url.endswith("openid-configuration") else {"keys": [jwk("r1", RSA)]}
        return json.dumps(document).encode()

    monkeypatch.setattr(tokens._KeySet, "_get", told)
    async with serve(sqlite_url, auth=f"jwt: {{issuer: '{issuer}', audience: {AUDIENCE}}}") as api:
        assert (await api.chat(idp.token(iss=issuer))).status_code == status


async def test_a_token_without_a_subject_names_nobody_by_another_claim(gateway, idp):
    async with gateway(jwt_more="claims: {user: email}") as api:
        assert (await api.chat(idp.token(email="a@b.example"))).status_code == 200
        assert (await api.chat(idp.token(email="a@b.example", sub=None))).status_code == 401


async def test_ids_nobody_knows_cost_the_provider_nothing(gateway, idp):
    async with gateway() as api:
        assert (await api.chat(idp.token())).status_code == 200
        asked = len(idp.up.requests)
        for n in range(20):
            assert (await api.chat(idp.token(OTHER, kid=f"x{n}"))).status_code == 401
        assert len(idp.up.requests) == asked


async def following(_, url):
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=True) as http:
        return (await http.get(url)).content


@pytest.mark.parametrize("what", ["discovery", "keys"])
@pytest.mark.parametrize("follows", [False, True], ids=["", "control: follows"])
async def test_a_redirect_of_the_provider_leads_nowhere(gateway, idp, monkeypatch, what, follows):
    """Whoever can send one would choose an address inside our network, and the keys that are believed."""
    if follows:
        monkeypatch.setattr(tokens._KeySet, "_get", following)
    plain = idp.answer
    async with FakeUpstream() as inside:
        inside.default = plain
        moved = Answer(302, headers=[("location", f"{inside.url}/jwks" if what == "keys" else inside.url)])
        idp.up.default = lambda seen: moved if (seen.target == "/jwks") is (what == "keys") else plain(seen)
        async with gateway() as api:
            answer = await api.chat(idp.token())
        assert (answer.status_code, len(inside.requests)) == ((200, 1) if follows else (503, 0))


@pytest.mark.parametrize("how", ["is away", "speaks of another issuer", "sends us to a file", "holds no keys"])
async def test_a_provider_that_does_not_answer_is_a_503(gateway, idp, monkeypatch, tmp_path, how):
    monkeypatch.setattr(tokens, "_ASK_AGAIN", 0.0)
    keys, uri, issuer = idp.keys, idp.jwks_uri, idp.issuer
    if how == "is away":
        idp.status = 503
    elif how == "speaks of another issuer":
        idp.issuer = "https://elsewhere.example"
    elif how == "sends us to a file":  # CVE-2026-59819
        (tmp_path / "jwks").write_text(json.dumps({"keys": [jwk("r1", RSA)]}))
        idp.jwks_uri = (tmp_path / "jwks").as_uri()
    else:
        idp.keys = {}
    async with gateway() as api:
        for token in (idp.token(), idp.token(OTHER, kid="r9")):
            refused = await api.chat(token)
            assert refused.status_code == 503, refused.text
        idp.status, idp.keys, idp.jwks_uri, idp.issuer = 200, keys, uri, issuer
        assert (await api.chat(idp.token())).status_code == 200


OK = b"HTTP/1.1 200 OK\r\n"
ODD = {
    "no HTTP": Answer(raw=b"garbage\r\n\r\n"),
    "cut inside a chunk": Answer(raw=OK + b"transfer-encoding: chunked\r\n\r\n5\r\n{"),
    "a long header": Answer(raw=OK + b"x: " + b"a" * 70_000 + b"\r\n\r\n{}"),
    "depth": Answer(body=b"[" * 100_000),
    "too much": Answer(body=b'{"keys":[' + b" " * (1 << 20) + b"]}"),
    "a list": Answer(body=b"[]"),
    "an address that is a number": Answer(body=b'{"issuer":"ISSUER","jwks_uri":5}'),
    "an address with a line's end": Answer(body=b'{"issuer":"ISSUER","jwks_uri":"http://127.0.0.1/a\\r\\nb"}'),
    "an address with a space": Answer(body=b'{"issuer":"ISSUER","jwks_uri":"http://127.0.0.1/ b"}'),
    "silence": Answer(delay_head=math.inf),
    "a drip": Answer(body=[b" "] * 1000, gap=0.05),
}


@pytest.mark.parametrize("what", ODD)
async def test_whatever_a_provider_says_it_is_a_503_in_time(gateway, idp, monkeypatch, what):
    monkeypatch.setattr(tokens, "_TIMEOUTS", Timeouts(5.0, 5.0, 5.0, 1.0))
    answer = ODD[what]
    if isinstance(answer.body, bytes):
        answer = replace(answer, body=answer.body.replace(b"ISSUER", idp.issuer.encode()))
    idp.up.default = answer
    async with gateway() as api, asyncio.timeout(15):
        refused = await api.chat(idp.token())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")


async def test_a_known_key_waits_for_no_stranger(gateway, idp, monkeypatch):
    """Whose key id nobody knows: the provider is asked for it, and takes its time."""
    monkeypatch.setattr(tokens, "_ASK_AGAIN", 0.0)
    async with gateway() as api:
        assert (await api.chat(idp.token())).status_code == 200
        idp.up.default = Answer(delay_head=math.inf)
        asked = len(idp.up.requests)
        stranger = asyncio.create_task(api.chat(idp.token(OTHER, kid="r9")))
        await idp.up.received(asked + 1)
        assert (await api.chat(idp.token(sub="bob"))).status_code == 200
        assert not stranger.done()
        assert (await stranger).status_code == 401


@pytest.mark.parametrize(("beside", "through"), [("", True), ("127.0.0.1", False)])
async def test_the_environment_s_proxy_is_used(gateway, idp, monkeypatch, beside, through):
    for name in ("HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with FakeUpstream() as proxy:
        proxy.default = lambda seen: idp.answer(replace(seen, target=seen.target.removeprefix(idp.up.url)))
        monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://"))  # as many write it
        monkeypatch.setenv("no_proxy", beside)
        async with gateway() as api:
            assert (await api.chat(idp.token())).status_code == 200
        assert bool(proxy.requests) is through


async def test_a_token_s_end_is_the_grant_s_end(gateway, idp):
    async with gateway(jwt_more="leeway: 0") as api:
        token = idp.token(exp=int(time.time()) + 2)
        assert (await api.chat(token)).status_code == 200
        while time.time() < jwt.decode(token, options={"verify_signature": False})["exp"] + 0.2:
            answer = await api.chat(token)
        assert (await api.chat(token)).status_code == 401
        assert answer.status_code in {200, 401}


async def test_roles_and_users_of_tokens(gateway, idp):
    claims = "claims: {role: realm.roles}, admin_roles: [gateway-admin]"
    async with gateway(jwt_more=claims) as api:
        admin, plain = idp.token(realm={"roles": ["gateway-admin"]}), idp.token(realm={"roles": ["x"]})
        await api.post("/user/new", {"user_id": "alice", "auto_create_key": False})
        assert (await api.raw("GET", "/user/list", key=admin)).status_code == 200
        assert (await api.raw("GET", "/user/list", key=plain)).status_code == 403
        await api.post("/key/generate", {}, key=plain, status=403)  # a key would outlive what made it
        made = await api.post("/key/generate", {"duration": "5m"}, key=plain)
        assert made["user_id"] == "alice"
        assert (await api.chat(plain)).status_code == 200
        await api.post("/user/update", {"user_id": "alice", "blocked": True})
        for token in (admin, plain):
            assert (await api.chat(token)).status_code == 401
            assert (await api.raw("GET", "/user/list", key=token)).status_code == 401


async def test_only_known_users(gateway, idp):
    async with gateway(jwt_more="require_known_user: true") as api:
        assert (await api.chat(idp.token())).status_code == 401
        await api.post("/user/new", {"user_id": "alice", "auto_create_key": False})
        assert (await api.chat(idp.token())).status_code == 200


async def test_virtual_keys_go_on_working_beside_tokens(gateway, idp):
    idp.status = 500
    async with gateway() as api:
        assert (await api.chat(await api.key())).status_code == 200

"""Recorded traffic of clouds: what their own SDKs sent is what we send, what they answered is what the client reads.

A cloud's wire differs from the dialect in known places only: the model stands in the address, the body names a version,
Bedrock's streams are binary. Everything else is compared byte for byte, at hostile chunkings.
"""

import base64
import collections
import json
import struct
from urllib.parse import unquote

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_providers import gwcore_providers
from gwcore_providers.bedrock.framing import Unframed
from tests.stacks.raw import exchange
from tests.stacks.test_recordings import HOSTILE, recorded_body, split

VERSIONS = {"vertex": "vertex-2023-10-16", "bedrock": "bedrock-2023-05-31"}
GEMINI = "/v1beta/models/{model}:{verb}"
# (provider, dialect, endpoint) of the recordings → ingress path
SERVED = {
    ("vertex", "gemini-generate", "generateContent"): GEMINI,
    ("vertex", "gemini-generate", "streamGenerateContent"): GEMINI,
    ("vertex", "gemini-count-tokens", "countTokens"): GEMINI,
    ("vertex", "gemini-embed", "embedContent"): GEMINI,
    ("vertex", "gemini-predict", "predict"): GEMINI,
    ("vertex", "anthropic-messages", "rawPredict"): "/v1/messages?beta=true",
    ("bedrock", "bedrock-invoke", "invoke"): "/v1/messages?beta=true",
    ("bedrock", "bedrock-invoke", "invoke-stream"): "/v1/messages?beta=true",
    ("bedrock-mantle", "openai-responses", "responses"): "/v1/responses",
}


def why_not(record):
    if (record["provider"], record["dialect"], record["endpoint"]) not in SERVED:
        return f"no client dialect yet: {record['dialect']}"
    if record["dialect"] == "bedrock-invoke" and "anthropic." not in record["model"]:
        return "another vendor's body"
    return None


def upstream_for(record, up, service_account):
    """The entry of ``upstreams`` that reaches ``up`` as the recorded client reached its cloud."""
    if record["provider"] == "vertex":
        path = (record["request"] or {}).get("path", "/projects/PROJECT/locations/us-central1/")
        if "/projects/" not in path:
            return {"provider": "vertex", "base_url": up.url, "api_key": "express-key-123"}
        location = path.partition("/locations/")[2].partition("/")[0]
        key = service_account(up.url)
        return {"provider": "vertex", "base_url": up.url, "location": location, "credentials": key}
    static = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI", "session_token": "session-token-1"}
    entry = {"provider": record["provider"], "base_url": up.url, "region": "us-east-1", **static}
    return entry | ({"root": "/openai/v1"} if record["provider"] == "bedrock-mantle" else {})


def asked(record):
    """Path and body as a client of the plain dialect sends them, and the body that must reach the cloud."""
    request = record["request"]
    path = SERVED[record["provider"], record["dialect"], record["endpoint"]]
    body = request["body"] if request else {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    if path == GEMINI:
        path = path.format(model=record["model"], verb=record["endpoint"]) + ("?alt=sse" if record["stream"] else "")
        return path, dump(body), dump(body)
    if record["dialect"] == "openai-responses":
        return path, dump(body), dump(body)
    rest = {name: value for name, value in body.items() if name != "anthropic_version"}
    version = {"anthropic_version": VERSIONS[record["provider"]]}
    if "prompt" in rest:
        path, version = "/v1/complete", {}
    client = {**rest, "model": record["model"]} | ({"stream": True} if record["stream"] else {})
    assert version.items() <= body.items()
    return path, dump(client), dump(version | rest)


def dump(document):
    """As Python's clients write JSON, but for the key that the gateway puts in front."""
    text = json.dumps(document, ensure_ascii=False)
    version = next(iter(document), "")
    return (text.replace(": ", ":", 1).replace(", ", ",", 1) if version == "anthropic_version" else text).encode()


def messages(raw):
    """AWS's event stream, read the plain way."""
    while raw:
        total, size = struct.unpack_from(">II", raw)
        at, headers = 12, {}
        while at < 12 + size:
            name = raw[at + 1 : at + 1 + raw[at]].decode()
            at += 1 + raw[at]
            (length,) = struct.unpack_from(">xH", raw, at)
            headers[name] = raw[at + 3 : at + 3 + length].decode()
            at += 3 + length
        yield headers, raw[12 + size : total - 4]
        raw = raw[total:]


def expected_reply(record):
    """The recorded bytes; those of a binary stream as the events they stand for."""
    raw = recorded_body(record)
    if record["endpoint"] != "invoke-stream":
        return raw
    frames = []
    for _, payload in messages(raw):
        data = base64.b64decode(json.loads(payload)["bytes"])
        kind = json.loads(data)["type"]
        frames.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))
    return b"".join(frames)


def target_of(record):
    request = record["request"]
    query = "".join(f"?{name}={value}" for name, value in request["query"].items())
    return (request.get("raw_path") or request["path"]) + query


def authenticated(seen, record):
    header = seen.header("authorization") or ""
    if record["provider"] == "vertex":
        return header == "Bearer token-1" or seen.header("x-goog-api-key") == "express-key-123"
    signed = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature="
    return header.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") and signed in header


async def replay(record, up, url, how):
    raw = recorded_body(record)
    kind = record["response"]["headers"].get("content-type", "application/json")
    answer = Answer(status=record["response"]["status"], headers=[("content-type", kind)], body=split(raw, how(raw)))
    token = Answer(body=b'{"access_token":"token-1","expires_in":3600,"token_type":"Bearer"}')
    up.default = lambda seen: token if seen.target == "/token" else answer
    path, body, _ = asked(record)
    return await exchange(url, "POST", path, body)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", range(len(HOSTILE)))
@pytest.mark.parametrize("provider", ["vertex", "bedrock", "bedrock-mantle"])
async def test_every_served_exchange_is_byte_exact(recordings, service_account, provider, how):
    chosen = [r for r in recordings if r["provider"] == provider and why_not(r) is None]
    stacks = collections.defaultdict(list)
    async with FakeUpstream() as up:
        for record in chosen:
            stacks[json.dumps(upstream_for(record, up, service_account))].append(record)
        wrong = []
        for entry, records in stacks.items():
            stack = json.dumps({"gwcore": 1, "upstreams": {"up": json.loads(entry)}, "stack": []})
            async with running(Gateway(stack + "\n")) as url:
                for record in records:
                    answer = await replay(record, up, url, HOSTILE[how])
                    wrong += compare(record, up.requests[-1], answer)
    assert not wrong, (len(wrong), wrong[:4])


def compare(record, seen, answer):
    wanted = asked(record)[2]
    if "no_finish" in record["tags"]:  # a mock of the vendor's that says no end: the client is told so behind it
        answer.body, _, told = answer.body.rpartition(b"data: ")
        assert json.loads(told)["error"]["details"][0]["reason"] == "UPSTREAM_BROKEN"
    checks = [
        ("request", seen.body == wanted, seen.body[:100], wanted[:100]),
        ("auth", authenticated(seen, record), seen.headers, ""),
        ("status", answer.status == record["response"]["status"], answer.status, answer.body[:300]),
        ("reply", answer.body == expected_reply(record), answer.body[-200:], expected_reply(record)[-200:]),
    ]
    if record["request"] is not None:
        target = target_of(record)
        same = seen.target == target or ("raw_path" not in record["request"] and unquote(seen.target) == target)
        checks.append(("target", same, seen.target, target))
    return [(record["id"], name, got, want) for name, ok, got, want in checks if not ok]


def test_the_coverage_is_what_we_say(recordings):
    clouds = [r for r in recordings if r["provider"] in {"vertex", "bedrock", "bedrock-mantle"}]
    counted = collections.Counter((r["provider"], why_not(r)) for r in clouds)
    assert counted == {
        ("vertex", None): 18,
        ("bedrock", None): 10,
        ("bedrock-mantle", None): 2,
        ("bedrock", "no client dialect yet: bedrock-converse"): 13,
        ("bedrock", "another vendor's body"): 1,
    }


def test_converse_has_its_addresses(recordings):
    provider = next(p for p in gwcore_providers() if p.name == "bedrock")
    converse = [r for r in recordings if r["dialect"] == "bedrock-converse"]
    assert len(converse) == 13

    class Up:
        base_path = ""

    for record in converse:
        found = provider.address(Up(), "bedrock.converse", "chat", record["model"], {}, stream=record["stream"])
        target = target_of(record)
        assert target in {found[0], unquote(found[0])} and found[1] is False


class Recorded:
    """An answer in pieces."""

    status, framed = 200, True

    def __init__(self, pieces):
        self.headers = [(b"content-type", b"application/vnd.amazon.eventstream")]
        self._pieces = iter(pieces)

    async def read(self):
        return next(self._pieces, b"")

    def close(self):
        pass


@pytest.mark.parametrize("how", range(len(HOSTILE)))
async def test_converse_streams_become_server_sent_events(recordings, how):
    streams = [r for r in recordings if r["endpoint"] == "converse-stream" and r["response"]["status"] == 200]
    assert len(streams) == 7
    for record in streams:
        raw = recorded_body(record)
        answer, got = Unframed(Recorded(split(raw, HOSTILE[how](raw))), chunks=False), b""
        while chunk := await answer.read():
            got += chunk
        assert got == b"".join(
            b"event: %b\ndata: %b\n\n" % (headers[":event-type"].encode(), payload)
            for headers, payload in messages(raw)
        )

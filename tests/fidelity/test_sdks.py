"""Through a running gateway: the official SDK of every dialect reads the recorded answers of every other one."""

import importlib.util
import json
import re
from functools import cache

import anthropic
import openai
import pytest
from google import genai

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.conftest import RECORDINGS
from tests.fidelity.corpus import MISSING, NAMES, SPECS, answers, chats, recorded_body, requests, streamed
from tests.fidelity.oracle import UNREADABLE, differs, reply_of
from tests.fidelity.sdks import ASK, client_for, close
from tests.fidelity.test_relayed import NO_FIELD

pytestmark = [
    pytest.mark.skipif(not requests(), reason=MISSING),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # of SDKs
]
PAIRS = [(a, b) for a in SPECS for b in SPECS if a != b]
UPSTREAMS = {
    "openai.chat": ("openai", '{{provider: openai-compatible, base_url: "{url}/openai/v1", dialect: openai.chat}}'),
    "openai.responses": ("openai", '{{provider: openai-compatible, base_url: "{url}/openai/v1", dialect: openai.responses}}'),
    "anthropic.messages": ("anthropic", '{{provider: anthropic, base_url: "{url}/anthropic"}}'),
    "gemini.generate": ("gemini", '{{provider: gemini, base_url: "{url}/gemini"}}'),
}  # fmt: skip


@cache
def replay_module():
    spec = importlib.util.spec_from_file_location("gwcore_replay", RECORDINGS / "replay.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    corpus = module.Corpus([str(RECORDINGS / name) for name in ("dev.jsonl.gz", "supplement.jsonl.gz")])
    module.Corpus = lambda _files: corpus  # read once
    return module


async def replayer():
    return await replay_module().start([])


def stack_for(source, port):
    shown = UPSTREAMS[source][1].format(url=f"http://127.0.0.1:{port}")
    return f"gwcore: 1\nupstreams:\n  up: {shown}\nstack: []\n"


# streams that end without saying so: see test_a_broken_stream_is_an_error
CUT = {"7ca4851211fa2224", "8fadeff2b8892c2c"}


@pytest.mark.parametrize("chunking", ["whole", "worst"])
@pytest.mark.parametrize(("source", "client"), PAIRS)
async def test_an_official_sdk_reads_the_digest(source, client, chunking):
    chosen = [
        r
        for r in answers(source)
        if r["id"] not in UNREADABLE and "stream_error" not in r["tags"] and r["id"] not in CUT
    ]
    if chunking == "worst":
        chosen = sorted([r for r in chosen if streamed(r)], key=lambda r: len(recorded_body(r)))[:20]
    replay, server, port = await replayer()
    wrong = []
    async with server, running(Gateway(stack_for(source, port))) as url:
        sdk = client_for(client, url)
        for record in chosen:
            replay.queue[UPSTREAMS[source][0]] = [(record["id"], {"chunking": chunking})]
            try:
                said = await ASK[client](sdk, "up/m", streamed(record))
            except Exception as error:
                wrong.append((record["id"], type(error).__name__, str(error)[:200]))
                continue
            found = differs(record, said)
            if client in NO_FIELD and record["digest"].get("refusal"):
                found = [one for one in found if one[0] not in ("refusal", "text")]
            usage = reply_of(record).usage
            if usage is not None and usage.total and said.usage != (usage.total_in, usage.total_out):
                found.append(("usage", said.usage, (usage.total_in, usage.total_out)))
            if found:
                wrong.append((record["id"], found[0]))
        await close(sdk)
    assert len(chosen) > 10
    assert not wrong, (len(wrong), len(chosen), str(wrong[:5])[:900])


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RAISED = (openai.APIStatusError, anthropic.APIStatusError, genai.errors.APIError)


def refusals(source):
    """Recorded errors with a message."""
    return [
        r
        for r in chats()
        if NAMES[r["dialect"]] == source
        and r["response"]["status"] >= 400
        and isinstance(r["digest"].get("error"), dict)
        and r["digest"]["error"].get("message")
    ]


def words_of(record):
    """The message; of a list of problems, every one of them."""
    message = record["digest"]["error"]["message"]
    return [one["msg"] for one in json.loads(message)] if message.startswith("[{") else [message]


def letters(text):
    return re.sub(r"\\[nrt]|\W", "", text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("source", "client"), PAIRS)
async def test_an_upstreams_error_keeps_status_and_message(source, client, stream):
    chosen = refusals(source)
    replay, server, port = await replayer()
    wrong = []
    async with server, running(Gateway(stack_for(source, port))) as url:
        sdk = client_for(client, url)
        for record in chosen:
            replay.queue[UPSTREAMS[source][0]] = [(record["id"], {"header.request-id": "req_upstream_7"})]
            try:
                await ASK[client](sdk, "up/m", stream)
                wrong.append((record["id"], "no error"))
            except RAISED as error:
                status = getattr(error, "status_code", None) or error.code
                message = str(getattr(error, "message", error))
                told = getattr(error, "response", None)
                shown = told.headers.get("request-id") if told is not None else None
                if status != record["response"]["status"]:
                    wrong.append((record["id"], status, record["response"]["status"]))
                elif not all(letters(one)[:50] in letters(message) for one in words_of(record)):
                    wrong.append((record["id"], message[:120], words_of(record)))
                elif shown != "req_upstream_7":
                    wrong.append((record["id"], "request-id", shown))
        await close(sdk)
    assert chosen and not wrong, (len(wrong), len(chosen), wrong[:4])


@pytest.mark.parametrize(("told", "times"), [("true", 2), ("false", 1)])
@pytest.mark.parametrize(("source", "client"), [pair for pair in PAIRS if pair[1] != "gemini.generate"])
async def test_whether_to_try_again_is_told_to_every_client(source, client, told, times):
    """OpenAI's and Anthropic's SDKs repeat a 400 or a 429 as ``x-should-retry`` says, whoever said it."""
    status = 400 if told == "true" else 429
    async with FakeUpstream() as upstream:
        upstream.default = Answer(
            status, [("x-should-retry", told), ("retry-after-ms", "1")], b'{"error":{"message":"no"}}'
        )
        async with running(Gateway(stack_for(source, upstream.url.rpartition(":")[2]))) as url:
            sdk = client_for(client, url).with_options(max_retries=1)
            with pytest.raises(RAISED):
                await ASK[client](sdk, "up/m", False)
            await close(sdk)
    assert len(upstream.requests) == times


@pytest.mark.parametrize("how", ["cut", "in_band"])
@pytest.mark.parametrize(("source", "client"), PAIRS)
async def test_a_broken_stream_is_an_error(source, client, how):
    """Cut behind an event, or failed by the upstream inside the stream: never an answer that seems complete."""
    streams = [r for r in answers(source) if streamed(r) and r["id"] not in CUT]
    failing = [r for r in streams if "stream_error" in r["tags"]]
    whole = [r for r in streams if r["digest"].get("n_events", 0) > 5 and len(r["digest"].get("text") or "") > 40]
    chosen = failing if how == "in_band" else whole[:8]
    if how == "in_band" and not chosen:
        pytest.skip(f"no failing stream of {source} was recorded")
    replay, server, port = await replayer()
    complete, raised = [], []
    async with server, running(Gateway(stack_for(source, port))) as url:
        sdk = client_for(client, url)
        for record in chosen:
            options = {"cutevent": "4"} if how == "cut" else {}
            replay.queue[UPSTREAMS[source][0]] = [(record["id"], options)]
            try:
                said = await ASK[client](sdk, "up/m", True)
            except Exception as error:
                raised.append(str(error))
                continue
            if said.finish != "failed":
                complete.append((record["id"], said.finish, said.text[:60]))
        await close(sdk)
    assert chosen and not complete, complete
    assert not [error for error in raised if "identity changed" in error]  # of the response that had begun

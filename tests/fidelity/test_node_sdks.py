"""The official Node SDKs read recorded answers of the other dialects through a running gateway.

``make node-sdks`` installs them below tests/node; without them, or without node, this says so and tests nothing.
"""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from tests.fidelity.corpus import MISSING, SPECS, answers, recorded_body, requests, streamed
from tests.fidelity.oracle import UNREADABLE, Said, arguments, differs, reply_of
from tests.fidelity.test_relayed import NO_FIELD
from tests.fidelity.test_sdks import CUT, UPSTREAMS, replayer, stack_for

FOLDER = Path(__file__).parent.parent / "node"
NODE = shutil.which("node")
pytestmark = [
    pytest.mark.skipif(not requests(), reason=MISSING),
    pytest.mark.skipif(
        not NODE or not (FOLDER / "node_modules" / "openai").is_dir(),
        reason="node or its SDKs are not installed (make node-sdks): the Node SDKs were NOT tested",
    ),
    pytest.mark.timeout(300),
]
CLIENTS = ("openai.chat", "openai.responses", "anthropic.messages")
PAIRS = [(a, b) for a in SPECS for b in CLIENTS if a != b]
# the SDK's own helper refuses answers that were cut or filtered: the words are there, behind an exception
RAISES = {"length", "content_filter", "refusal", "unknown", "error", "context_window", "pause"}


async def ask(client, url, cases):
    process = await asyncio.create_subprocess_exec(
        NODE, "ask.mjs", cwd=FOLDER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    given = json.dumps({"client": client, "url": url, "cases": cases}).encode()
    out, _ = await process.communicate(given)
    assert process.returncode == 0
    return {line["id"]: line for line in map(json.loads, out.splitlines())}


@pytest.mark.parametrize(("source", "client"), PAIRS)
async def test_a_node_sdk_reads_the_digest(source, client):
    chosen = [
        r
        for r in answers(source)
        if r["id"] not in UNREADABLE | CUT and "stream_error" not in r["tags"] and len(recorded_body(r)) < 200_000
    ]
    if client == "openai.chat":
        chosen = [r for r in chosen if not streamed(r) or reply_of(r).choices[0].finish.reason not in RAISES]
    replay, server, port = await replayer()
    async with server, running(Gateway(stack_for(source, port))) as url:
        replay.queue[UPSTREAMS[source][0]] = [(r["id"], {"chunking": "random:11"}) for r in chosen]
        told = await ask(client, url, [{"id": r["id"], "stream": streamed(r)} for r in chosen])
    wrong = []
    for record in chosen:
        line = told[record["id"]]
        if "error" in line:
            wrong.append((record["id"], line["error"]))
            continue
        calls = [(name, arguments(given)) for name, given in line["calls"]]
        said = Said(line["text"], record["digest"].get("reasoning") or "", calls, line["refusal"])
        found = [one for one in differs(record, said) if one[0] != "reasoning"]
        if client in NO_FIELD and record["digest"].get("refusal"):
            found = [one for one in found if one[0] not in ("refusal", "text")]
        usage = reply_of(record).usage
        if usage is not None and usage.total and line["usage"] != [usage.total_in, usage.total_out]:
            found.append(("usage", line["usage"], (usage.total_in, usage.total_out)))
        if found:
            wrong.append((record["id"], found[0]))
    assert len(chosen) > 20
    assert not wrong, (len(wrong), len(chosen), str(wrong[:4])[:700])

"""A chain of targets that speak other dialects than the client: the same decisions, in the client's words."""

import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx2
import pytest
from fallback_faults import ELSEWHERE, ENDS, PATIENCE, SERVED, TRUNCATED, blames, faults
from fallback_world import WIRES, World, ended_with_error, said

from gwcore import outcomes
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

CHAINS = {
    "openai.chat": ("anthropic.messages", "gemini.generate"),
    "openai.responses": ("gemini.generate", "anthropic.messages"),
    "anthropic.messages": ("openai.chat", "gemini.generate"),
    "gemini.generate": ("openai.chat", "anthropic.messages"),
}
"""Client → dialects of the first and the second target; the third speaks the client's own."""


@asynccontextmanager
async def chain(client, fallback="{retry: {per_target: 0}}", times=""):
    wires = [*(WIRES[name] for name in CHAINS[client]), WIRES[client]]
    async with AsyncExitStack() as exits:
        ups = {name: await exits.enter_async_context(FakeUpstream()) for name in "abc"}
        lines = ["gwcore: 1", "upstreams:"]
        for (name, up), wire in zip(ups.items(), wires, strict=True):
            lines.append(f'  {name}: {{provider: {wire.provider}, base_url: "{up.url}{wire.suffix}"{times}}}')
            up.default = None
        lines += ["models: {m: [a/m, b/m, c/m]}", f"stack: [{{fallback: {fallback}}}]", ""]
        gateway = Gateway("\n".join(lines))
        url = await exits.enter_async_context(running(gateway))
        yield World(url, gateway, ups, WIRES[client]), wires


async def decide(w, wires, stream, answer):
    """What happened, as far as upstreams and client can tell; and whether the first is blamed."""
    for one in w.plugin.fleet.deployments.values():
        one.breaker.close()
        one.credential.close()
    before = w.calls
    w.ups["a"].script(replace(answer, hang_up=True))
    w.ups["b"].default = wires[1].answer(stream, "from b")
    seen = await w.ask(stream)
    first = w.plugin.fleet.deployments["a/m"]
    blamed = bool(first.breaker.fails + first.credential.opens)
    calls = tuple(w.calls[name] - before[name] for name in "abc")
    if seen.status >= 400:
        assert json.loads(seen.body) and b"data:" not in seen.body and seen.whole
        return (ENDS if calls == (1, 0, 0) else f"{calls} {seen.status}"), blamed
    text, failed = said(w.wire, stream, seen.body).rstrip("!"), ended_with_error(seen.body)
    if calls == (1, 1, 0) and text == "from b" and seen.whole and not failed:
        assert seen.headers["x-gwcore-upstream"] == "b" and seen.headers["x-gwcore-failed"].startswith("a/m ")
        return ELSEWHERE, blamed
    if calls == (1, 0, 0) and stream and seen.whole and text in {"hel", ""}:
        assert "from b" not in text and (b"[DONE]" not in seen.body or not failed)
        return (TRUNCATED if failed else SERVED), blamed
    return f"{calls} {seen.status} {seen.body!r}", blamed


async def table(client, stream, wanted=None):
    wrong = {}
    for hangs, times in PATIENCE.items():
        async with chain(client, times=times) as (w, wires):
            for name, answer, decided in faults(wires[0], stream):
                # Gemini's calls leave whole: nothing of this one has left yet
                nothing_left = name == "cut inside a tool call" and client == "gemini.generate"
                expected = ELSEWHERE if nothing_left else decided
                if name.startswith("hangs") is hangs and (wanted is None or name in wanted):
                    decision = await decide(w, wires, stream, answer)
                    if decision != (expected, blames(name, expected)):
                        wrong[name] = decision
    return wrong


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", CHAINS)
async def test_the_same_decision_in_translation(client, stream):
    assert await table(client, stream) == {}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", CHAINS)
async def test_down_the_whole_chain_and_back_in_the_client_s_words(client, stream):
    async with chain(client) as (w, wires):
        w.ups["a"].default, w.ups["b"].default = Answer(503, body=b"{}"), Answer(529, body=b"{}")
        w.ups["c"].default = wires[2].answer(stream, "from c")
        seen = await w.ask(stream)
        assert seen.status == 200 and said(w.wire, stream, seen.body).rstrip("!") == "from c"
        assert seen.headers["x-gwcore-attempts"] == "3" and seen.headers["x-gwcore-upstream"] == "c"
        w.ups["c"].default = Answer(429, [("retry-after", "7")], b'{"error": {"message": "slow down, please"}}')
        for one in w.plugin.fleet.deployments.values():
            one.breaker.close()
        seen = await w.ask(stream)
        assert seen.status == 429 and seen.headers["retry-after"] == "7" and b"slow down, please" in seen.body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_local_first_and_the_cloud_when_it_is_down(stream):
    """Ollama is not there: the cloud answers, after a refused connection, then without one."""
    text = """
gwcore: 1
upstreams:
  local: {{provider: ollama, base_url: "http://127.0.0.1:1", timeout: {{connect: 300ms}}}}
  cloud: {{provider: anthropic, base_url: "{0}"}}
models: {{m: [local/qwen, cloud/m]}}
stack: [{{fallback: {{}}}}]
"""
    wire = WIRES["openai.chat"]
    async with FakeUpstream() as cloud:
        cloud.default = WIRES["anthropic.messages"].answer(stream, "from the cloud")
        gateway = Gateway(text.format(cloud.url))
        async with running(gateway) as url:
            w = World(url, gateway, {"cloud": cloud}, wire)
            seen = [await w.ask(stream) for _ in range(8)]
    assert all(said(wire, stream, one.body) == "from the cloud" for one in seen)
    assert [one.headers["x-gwcore-attempts"] for one in seen] == ["2"] * 5 + ["1"] * 3


async def test_control_a_retry_of_every_refusal_is_seen(monkeypatch):
    monkeypatch.setitem(outcomes.TABLE, "request", outcomes.TABLE["unavailable"])
    assert set(await table("openai.chat", False, {"status 400", "status 503"})) == {"status 400"}


async def test_control_a_fallback_after_the_commit_is_seen(monkeypatch):
    monkeypatch.setattr("gwcore.reply.Reply.committed", False)
    assert await table("anthropic.messages", True, {"cut after content"})


@pytest.mark.parametrize("client", CHAINS)
async def test_a_wait_is_told_once(client):
    """Two headers of a name are one list, which no SDK takes for a number."""
    async with chain(client) as (w, _), httpx2.AsyncClient() as http:
        for name in "ac":
            w.breaker(f"{name}/m").cool(60.0)
        w.ups["b"].default = Answer(429, [("retry-after", "30")], b"{}")
        path, body = w.wire.request(False)
        assert (await http.post(w.url + path, content=body)).headers.get_list("retry-after") == ["30"]

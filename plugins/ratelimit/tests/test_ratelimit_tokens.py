"""Token limits over time (L4, pains C4), and refusals in every dialect (pains C6)."""

import json

import pytest
from ratelimit_calls import Clock, Upstream, ask, limiter, used

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from tests.stacks.raw import exchange


async def spend(layer, clock, seconds, *, tokens, pause=0.05, **fields):
    """Ask all the time; what was used, and every refusal's wait."""
    end, total, waits = clock.now + seconds * 1_000_000, 0, []
    while clock.now < end:
        got = await ask(layer, **fields)
        if got.status == 200:
            total += tokens
        else:
            waits.append(got.error.retry_after)
        clock.advance(pause)
    return total, waits


async def test_l4_an_estimate_five_times_too_high_still_uses_the_limit():
    clock = Clock()
    async with limiter({"per": "key", "tokens": "60k/min", "burst": 6000}, clock=clock) as plugin:
        layer = plugin.call_layer(Upstream(used(200)))
        total, _ = await spend(layer, clock, 60, tokens=200, max_tokens=1000)
        whole = 6000 + 60_000
        print({"used": total, "of": whole, "share": round(total / whole, 3)})
        assert 0.85 * whole <= total <= whole


async def test_l4_an_estimate_far_too_low_becomes_a_debt_with_a_true_wait():
    clock = Clock()
    async with limiter({"per": "key", "tokens": "60k/min", "burst": 6000}, clock=clock) as plugin:
        layer = plugin.call_layer(Upstream(used(4000)))
        total, refused = 0, 0
        for _ in range(60):
            got = await ask(layer, max_tokens=200)
            if got.status == 200:
                total += 4000
                continue
            refused += 1
            clock.advance(got.error.retry_after - 0.001)
            assert (await ask(layer, max_tokens=200)).status == 429  # a millisecond early
            clock.advance(0.002)
            assert (await ask(layer, max_tokens=200)).status == 200
            total += 4000
        seconds = (clock.now - Clock().now) / 1e6
        assert refused and total <= 6000 + 1000 * seconds + 6000 + 4000  # a debt is one burst at most


@pytest.mark.parametrize("share", [0.9, 1.3])
async def test_c4_requests_and_tokens_do_not_disturb_one_another(share):
    """Ten minutes at nine tenths of the token limit: not one refusal. Above it there are some."""
    clock = Clock()
    rules = [{"per": "key", "requests": "600/min"}, {"per": "key", "tokens": "100k/min"}]
    async with limiter(*rules, clock=clock) as plugin:
        layer = plugin.call_layer(Upstream(used(1000)))
        pause = 60 / (share * 100_000 / 1000)
        _, waits = await spend(layer, clock, 600, tokens=1000, pause=pause, max_tokens=960)
        assert bool(waits) is (share > 1)


BODIES = {
    "/v1/chat/completions": {"model": "house", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "house", "input": "hi"},
    "/v1/messages": {"model": "house", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "/v1beta/models/house:generateContent": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    "/v1beta/models/house:streamGenerateContent?alt=sse": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_in_the_client_s_dialect(path, stream):
    """A JSON error, the wait, what is left; never an event stream."""
    text = """
gwcore: 1
upstreams: {demo: {provider: demo}}
models: {house: demo/demo}
stack: [{ratelimit: {rules: [{per: key, requests: 2/min}, {per: key, tokens: 100k/min}]}}]
"""
    body = json.dumps({**BODIES[path], **({} if "beta" in path else {"stream": stream})}).encode()
    prefix = "anthropic-ratelimit-requests-{}" if path == "/v1/messages" else "x-ratelimit-{}-requests"
    async with running(Gateway(text)) as url:
        for left in (1, 0):
            seen = await exchange(url, "POST", path, body)
            assert seen.status == 200 and seen.headers[prefix.format("remaining")] == str(left)
            assert seen.headers[prefix.format("limit")] == "2" and prefix.format("reset") in seen.headers
        seen = await exchange(url, "POST", path, body)
    assert seen.status == 429 and seen.headers["content-type"] == "application/json"
    assert 29 <= int(seen.headers["retry-after"]) <= 30
    assert seen.headers[prefix.format("remaining")] == "0" and seen.headers[prefix.format("limit")] == "2"
    error = json.loads(seen.body)["error"]
    assert "2 requests per 60 s" in error["message"]
    if path == "/v1/messages":
        assert (json.loads(seen.body)["type"], error["type"]) == ("error", "rate_limit_error")
    elif "beta" in path:
        assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    else:
        assert error["code"] == "rate_limited"

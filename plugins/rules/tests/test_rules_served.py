"""Rules in a gateway that serves: every dialect, what is sent on, lists of models, estimates, credentials."""

import json
import secrets
from contextlib import asynccontextmanager

import pytest

from gwcore.aim import aim
from gwcore.errors import OrderViolation
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

TURNS = {"messages": [{"role": "user", "content": "hi"}]}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
# dialect → provider, path, body, what a body holds below which our knobs stand, how it spells them
DIALECTS = {
    "openai.chat": ("openai-compatible", "/v1/chat/completions", {"model": "{}", **TURNS}, (), "max_tokens", "top_p"),
    "openai.responses": ("openai", "/v1/responses", {"model": "{}", "input": "hi"}, (), "max_output_tokens", "top_p"),
    "anthropic.messages": ("anthropic", "/v1/messages", {"model": "{}", **TURNS}, (), "max_tokens", "top_p"),
    "gemini.generate": (
        "gemini", "/v1beta/models/{}:generateContent", GEMINI, ("generationConfig",), "maxOutputTokens", "topP",
    ),
}  # fmt: skip
RULES = """
- {name: papers, when: {task: paper}, model: large, sampling: {temperature: 0.2, max_tokens: 900, top_p: 0.5}}
- {name: fallen, when: {task: cheap}, model: large, max_cost: $0.000001, cheaper: small}
- {name: reasons, when: {task: think}, model: up/gpt-5-mini, sampling: {temperature: 0.2, max_tokens: 900}}
"""
PRICES = "{s: {input: $0.1/M, output: $0.4/M}, l: {input: $3/M, output: $15/M, capabilities: [vision, tools]}}"


def stack(url, provider, *, before="", extra="", rules=RULES):
    suffix = "/v1" if provider.startswith("openai") else ""
    written = "\n".join("        " + line for line in rules.strip().splitlines())
    return f"""gwcore: 1
stores: {{book: "memory://book"}}
upstreams:
  up: {{provider: {provider}, base_url: "{url}{suffix}", prices: {PRICES}}}
models: {{small: up/s, large: up/l, "up/*": pass, "stt": up/stt}}
stack:
{before}  - rules:
      rules:
{written}
{extra}"""


@asynccontextmanager
async def served(dialect="openai.chat", **more):
    async with FakeUpstream() as up:
        up.default = Answer(body=b"{}")
        gateway = Gateway(stack(up.url, DIALECTS[dialect][0], **more))
        async with running(gateway) as url:
            yield up, url, gateway


async def ask(url, dialect, model, headers=(), below="", **fields):
    _, path, body, *_ = DIALECTS[dialect]
    document = {**body, **fields, **({"model": model} if "model" in body else {})}
    return await exchange(url, "POST", below + path.replace("{}", model), json.dumps(document).encode(), headers)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_gets_the_model_and_the_defaults(dialect):
    _, _, body, inside, limit, top_p = DIALECTS[dialect]
    async with served(dialect) as (up, url, _):
        seen = await ask(url, dialect, "auto/paper")
        assert seen.status == 200
        assert (seen.headers["x-gwcore-rule"], seen.headers["x-gwcore-model"]) == ("papers", "l")
        sent = up.requests[0].document
        settings = sent[inside[0]] if inside else sent
        assert (settings["temperature"], settings[limit], settings[top_p]) == (0.2, 900, 0.5)
        if "model" in body:
            assert sent["model"] == "l"
        else:
            assert up.requests[0].target.endswith("/models/l:generateContent")
        # what the client says itself stays
        own = {"generationConfig": {"temperature": 1, "topK": 3}} if inside else {"temperature": 1}
        await ask(url, dialect, "auto/paper", **own)
        sent = up.requests[1].document
        settings = sent[inside[0]] if inside else sent
        assert (settings["temperature"], settings[limit]) == (1, 900)
        assert not inside or settings["topK"] == 3


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_says_its_task_in_metadata_and_has_its_cap(dialect):
    async with served(dialect) as (up, url, _):
        seen = await ask(url, dialect, "small", metadata={"task_type": "paper"})
        assert seen.headers["x-gwcore-model"] == "l" and "metadata" not in up.requests[0].document
        seen = await ask(url, dialect, "auto/cheap")
        assert seen.headers["x-gwcore-model"] == "s"
        seen = await ask(url, dialect, "large", [("x-gwcore-max-cost-usd", "0.000001")])
        assert seen.status == 400 and b"no model is estimated within $0.000001" in seen.body
        assert len(up.requests) == 2


async def test_a_request_that_no_rule_is_for_is_sent_as_it_came():
    async with served() as (up, url, _):
        body = b'{"model":  "up/s", "messages": [],"x":1}'
        assert (await exchange(url, "POST", "/v1/chat/completions", body)).status == 200
        assert up.requests[0].body == body.replace(b"up/s", b"s")
        seen = await ask(url, "openai.chat", "auto/other")
        assert seen.status == 404 and b"no rule matches the task 'other'" in seen.body


async def test_a_model_that_samples_as_it_likes_is_told_no_temperature():
    async with served() as (up, url, _):
        await ask(url, "openai.chat", "auto/think")
        sent = up.requests[0].document
        assert "temperature" not in sent and sent["max_completion_tokens"] == 900 and "max_tokens" not in sent


async def test_a_form_goes_to_the_rule_s_model():
    rules = "- {name: hear, when: {operations: transcription}, model: stt}"
    mark = secrets.token_hex(8)
    part = f'--{mark}\r\ncontent-disposition: form-data; name="model"\r\n\r\nauto\r\n--{mark}--\r\n'.encode()
    async with served(rules=rules) as (up, url, _):
        kind = ("content-type", f"multipart/form-data; boundary={mark}")
        assert (await exchange(url, "POST", "/v1/audio/transcriptions", part, [kind])).status == 200
        assert b"\r\n\r\nstt\r\n" in up.requests[0].body


# ── lists and estimates ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_models_lists_tasks_prices_and_capabilities():
    async with served() as (_, url, _):
        listed = {one["id"]: one for one in json.loads((await exchange(url, "GET", "/v1/models")).body)["data"]}
        assert {"small", "large", "auto/paper", "auto/cheap", "auto/think"} == set(listed) - {"stt"}
        assert listed["large"]["pricing"]["output"] == "0.000015"
        assert listed["large"]["capabilities"] == ["tools", "vision"]
        assert listed["auto/paper"]["capabilities"] == ["tools", "vision"]
        assert (await exchange(url, "GET", "/v1/models/auto/paper")).status == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_estimates_below_its_own_address(dialect):
    async with served(dialect) as (up, url, _):
        seen = await ask(url, dialect, "auto/cheap", below="/estimate")
        assert seen.status == 200 and not up.requests
        told = json.loads(seen.body)
        assert (told["model"], told["rule"], told["task"]) == ("small", "fallen", "cheap")
        large, small = told["candidates"]
        assert (large["model"], large["chosen"], small["chosen"], small["excluded"]) == ("large", False, True, None)
        assert "over the cap" in large["excluded"] and large["capabilities"] == ["tools", "vision"]
        # exact: tokens by price
        for one, read, written in ((large, 3000, 15000), (small, 100, 400)):
            nano = one["input_tokens"] * read + one["output_tokens"] * written
            assert round(one["estimated_cost_usd"] * 1e9) == nano
        seen = await ask(url, dialect, "auto/paper", below="/estimate")
        told = json.loads(seen.body)
        assert (told["model"], told["temperature"], told["max_tokens"]) == ("large", 0.2, 900)
        assert told["output_tokens"] == 900


@pytest.mark.parametrize("path", ["/estimate", "/v1/estimate"])
async def test_the_short_address_is_chat_completions(path):
    async with served() as (_, url, _):
        body = json.dumps({"model": "large", "max_tokens": 100, "temperature": 0, **TURNS}).encode()
        told = json.loads((await exchange(url, "POST", path, body)).body)
        assert (told["model"], told["rule"], told["temperature"], told["max_tokens"]) == ("large", None, 0, 100)
        assert [one["model"] for one in told["candidates"]] == ["large"]
        assert (await exchange(url, "POST", path, b'{"model": "auto/none"}')).status == 404
        assert (await exchange(url, "POST", path, b"[")).status == 400


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────────────

KEYS = {name: secrets.token_hex(32) for name in ("narrow", "plain", "wide")}
AUTH = f"""  - auth:
      admin_key: {secrets.token_hex(32)}
      keys:
        narrow: {{secret: {KEYS["narrow"]}, models: [small, "auto/*"]}}
        plain: {{secret: {KEYS["plain"]}, models: [small]}}
        wide: {{secret: {KEYS["wide"]}}}
"""


def as_(key):
    return [("authorization", f"Bearer {KEYS[key]}")]


async def test_a_rule_gives_nobody_a_model_that_the_key_may_not_use():
    async with served(before=AUTH) as (up, url, _):
        for headers in ((), [("x-gwcore-task", "paper")]):
            model = "small" if headers else "auto/paper"
            seen = await ask(url, "openai.chat", model, [*as_("narrow"), *headers])
            assert (
                seen.status == 403 and b"may use no model of the rule papers" in seen.body and b"large" not in seen.body
            )
        assert not up.requests
        assert (await ask(url, "openai.chat", "auto/paper", as_("wide"))).headers["x-gwcore-model"] == "l"
        assert (await ask(url, "openai.chat", "auto/cheap", as_("wide"))).headers["x-gwcore-model"] == "s"
        assert (await ask(url, "openai.chat", "auto/cheap", as_("plain"))).status == 403  # may not even ask
        assert (await ask(url, "openai.chat", "auto/paper")).status == 401


def fooled(monkeypatch):
    """Mutants: a plugin that never asks who may use what; the core without its check; both."""
    monkeypatch.setattr("gwcore.plugin.Setup.permits", lambda *_: True)


async def test_the_core_checks_it_again(monkeypatch):
    fooled(monkeypatch)
    async with served(before=AUTH) as (up, url, _):
        seen = await ask(url, "openai.chat", "auto/paper", as_("narrow"))
        assert seen.status == 403 and b"may not use large" in seen.body and not up.requests


async def test_and_auth_does_before_the_attempt(monkeypatch):
    fooled(monkeypatch)
    monkeypatch.setattr("gwcore.aim.aim", aim_unchecked)
    async with served(before=AUTH) as (up, url, _):
        assert (await ask(url, "openai.chat", "auto/paper", as_("narrow"))).status == 403 and not up.requests


async def test_negative_control_without_any_check_the_key_is_bypassed(monkeypatch):
    fooled(monkeypatch)
    monkeypatch.setattr("gwcore.aim.aim", aim_unchecked)
    monkeypatch.setattr("gwcore_auth.grants.Grant.permit", lambda *_: None)
    async with served(before=AUTH) as (up, url, _):
        assert (await ask(url, "openai.chat", "auto/paper", as_("narrow"))).status == 200 and up.requests


def aim_unchecked(models, call, _permits=()):
    aim(models, call)


async def test_lists_and_estimates_are_those_of_the_key():
    async with served(before=AUTH) as (_, url, _):

        async def names(key):
            seen = await exchange(url, "GET", "/v1/models", headers=as_(key))
            return {one["id"] for one in json.loads(seen.body)["data"]}

        assert await names("plain") == {"small"}
        assert await names("narrow") == {"small", "auto/paper", "auto/cheap", "auto/think"}
        assert {"large", "auto/paper"} <= await names("wide")
        assert (await ask(url, "openai.chat", "auto/cheap", below="/estimate")).status == 401
        assert (await ask(url, "openai.chat", "large", as_("narrow"), below="/estimate")).status == 403
        told = json.loads((await ask(url, "openai.chat", "small", as_("narrow"), below="/estimate")).body)
        assert told["model"] == "small"
    either = "- {name: either, when: {task: t}, model: [large, small]}"
    async with served(before=AUTH, rules=either) as (_, url, _):
        told = json.loads((await ask(url, "openai.chat", "auto/t", as_("narrow"), below="/estimate")).body)
        assert told["model"] == "small"
        assert [one["model"] for one in told["candidates"]] == ["small"]  # the other is not named
        assert (await ask(url, "openai.chat", "auto/t", as_("narrow"))).headers["x-gwcore-model"] == "s"
        assert (await ask(url, "openai.chat", "auto/t", as_("wide"))).headers["x-gwcore-model"] == "l"


async def test_it_stands_behind_auth_and_before_everything_else():
    for before, extra in (("  - ratelimit: {rules: []}\n", ""), ("", AUTH)):
        with pytest.raises(OrderViolation):
            async with Gateway(stack("http://127.0.0.1:1", "openai-compatible", before=before, extra=extra)):
                pass

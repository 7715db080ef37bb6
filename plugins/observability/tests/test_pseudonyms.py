"""Ids of users: pseudonyms in every sink that is asked to, the same in all of them, and nowhere the id."""

import httpx2
import orjson
import pytest
from endings_world import RESPONDED, RESPONSE, Everywhere, named, until
from obs_world import ask, gateway, ok, plugin_of
from test_canary_traces import sent
from test_prometheus import ADMIN, ONE
from test_trace_sinks import PAIR, sink

from gwcore.testing.upstream import Answer, FakeUpstream, sse
from gwcore_observability.pseudonyms import LENGTH, Pseudonyms

OWNER, CUSTOMER = "owner@example.org", "customer-canary@example.org"
SINKS = ("otel", "langfuse", "helicone", "webhook", "access_log", "request_log")
SECRET = "0123456789abcdef-of-users"
NAMED = {"user": CUSTOMER, "safety_identifier": CUSTOMER, "metadata": {"user_id": CUSTOMER}}
BEGUN = {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, **NAMED}}
ODD = {"type": "response.completed", "sequence_number": 1, "response": {**RESPONSE, **NAMED, "output": 7}}
AUTH = f"""stores: {{{{rows: "sqlite:///{{folder}}/rows.db"}}}}
stack:
  - auth:
      admin_key: "{ADMIN["authorization"].removeprefix("Bearer ")}"
      keys: {{{{one: {{{{secret: "{ONE["authorization"].removeprefix("Bearer ")}", user: "{OWNER}"}}}}}}}}
      users: {{{{"{OWNER}": {{{{}}}}}}}}
"""


async def written(folder, **settings):
    """What every sink sent and wrote of a chat, and of responses that repeat whom they were asked for."""
    repeated = Answer(body=orjson.dumps({**RESPONDED, **NAMED}))
    broken = Answer(body=sse(*named(BEGUN, {"type": "response.output_text.delta", "delta": "hel"}, ODD)))
    async with FakeUpstream(ok(), repeated, broken) as up, Everywhere() as place:
        how = {"content": "full", **settings}
        watch = [
            sink("otel", folder, endpoint=place.url, **how),
            sink("langfuse", folder, **PAIR, base_url=place.url, **how),
            sink("helicone", folder, api_key="sk-helicone-1", base_url=place.url, **how),
            sink("webhook", folder, url=place.url + "/hook", **how),
            sink("access_log", None, to=f"{folder}/calls.log", **how),
            sink("request_log", folder, store="rows", **how),
        ]
        async with gateway(up, "\n".join(watch), stack=AUTH.format(folder=folder)) as (url, made):
            assert (await ask(url, headers=ONE, **NAMED)).status_code == 200
            async with httpx2.AsyncClient(base_url=url, headers=ONE, verify=False) as client:
                for stream in (False, True):
                    body = {"model": "fast", "input": "hi", "stream": stream, **NAMED}
                    assert CUSTOMER in (await client.post("/v1/responses", json=body)).text
            await until(lambda: all(plugin_of(made, name).outbox.sent == 3 for name in SINKS))
        files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return {**dict(sent(place)), **files}


async def test_no_sink_learns_who(tmp_path):
    found = await written(tmp_path, hash_users=SECRET)
    text = b"".join(found.values())
    assert OWNER.encode() not in text and CUSTOMER.encode() not in text and SECRET.encode() not in text
    customer = Pseudonyms(None, SECRET).of(CUSTOMER).encode()
    assert len(customer) == LENGTH
    for where in ("/v1/traces", "/api/public/otel", "/v1/log", "/hook", "calls.log", "rows.db"):
        assert any(where in name and customer in text for name, text in found.items()), where


async def test_the_search_finds_who_where_nobody_asked_for_pseudonyms(tmp_path):
    """The negative control, and the default."""
    found = await written(tmp_path)
    for id_, sinks in ((OWNER, len(SINKS) - 1), (CUSTOMER, len(SINKS))):  # Helicone is told of one user
        assert sum(id_.encode() in text for text in found.values()) >= sinks


CUT = 'd " e'


def test_what_stays_text_loses_the_same_ids():
    one = Pseudonyms(None, SECRET)
    said = 'data: {"user": "a\\u0040b", "input": "user", "metadata":{"user_id":"c"}}\n\ndata: {"safety_identifier":"d \\" e'
    assert one._unnamed(said) == (
        f'data: {{"user": "{one.of("a@b")}", "input": "user", "metadata":{{"user_id":"{one.of("c")}"}}}}\n\n'
        f'data: {{"safety_identifier":"{one.of(CUT)}"'
    )


def test_a_pseudonym_is_of_its_secret():
    one, other = Pseudonyms(None, SECRET), Pseudonyms(None, SECRET + "2")
    assert one.of("a") == one.of("a") != other.of("a") and one.of("a") != one.of("b")
    assert one.of(None) is None and one.of("") == ""


@pytest.mark.parametrize("content", [None, "text", {"metadata": [1], "user": {"a": 1}}])
def test_requests_of_another_shape_stay_as_they_are(content):
    assert Pseudonyms(None, SECRET)._unnamed(content) == content

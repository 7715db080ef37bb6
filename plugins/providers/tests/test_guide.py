"""What the guide says about adding a vendor is true: its row is a row, its file serves."""

import json
import re
import types
from pathlib import Path

import pytest

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.testing.provider_conformance import ProviderConformance
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_providers import compatible
from tests.stacks.raw import exchange

GUIDE = Path(__file__).parents[3] / "docs/guide/providers.md"
BODY = json.dumps({"model": "m", "max_tokens": 1, "messages": []}).encode()


def block(holding):
    return next(code for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if holding in code)


def test_the_row_is_a_row():
    rows = {}
    exec(block('ROWS["acme"]'), {**vars(compatible), "ROWS": rows})
    assert isinstance(rows["acme"], compatible.Row)
    every = set(compatible.Row.__dataclass_fields__)
    assert every - {"base_url", "env_key"} == {
        "operations",
        "responses",
        "paths",
        "messages",
        "without",
        "others",
        "root",
        "local",
        "quirks",
        "lists",
        "models",
    }


def test_the_file_passes_the_kit_as_the_guide_says():
    acme = types.ModuleType("acme")
    exec(compile(block("class Acme:"), "guide", "exec"), vars(acme))
    said = dict(re.findall(r"`(operations|options) = ([^`]+)`", GUIDE.read_text()))
    kit = type("TestAcme", (ProviderConformance,), {name: eval(value) for name, value in said.items()})()
    assert set(said) == {"operations", "options"}
    kit.provider = acme.Acme()
    kit.test_options_are_closed_and_described()
    kit.test_what_it_serves_has_an_address(stream=True)
    kit.test_a_name_cannot_lead_elsewhere()


@pytest.mark.parametrize(("stream", "verb"), [(False, "ask"), (True, "stream")])
async def test_the_file_serves(stream, verb):
    acme = types.ModuleType("acme")
    exec(compile(block("class Acme:"), "guide", "exec"), vars(acme))
    sse = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    async with FakeUpstream(Answer(body=[sse] if stream else b"{}")) as up:
        entry = {"provider": "acme", "region": "eu", "base_url": f"{up.url}/v9", "api_key": "key-1234"}
        stack = json.dumps({"gwcore": 1, "upstreams": {"up": entry}, "stack": []}) + "\n"
        async with running(Gateway(stack, catalog=Catalog(acme))) as url:
            body = json.dumps({**json.loads(BODY), "stream": stream}).encode()
            assert (await exchange(url, "POST", "/v1/messages", body)).status == 200
            assert (await exchange(url, "POST", "/v1/embeddings", b'{"model": "m", "input": "x"}')).status == 422
        (seen,) = up.requests
        assert seen.target == f"/v9/models/m/{verb}" and seen.body == body
        assert seen.header("x-acme-key") == "key-1234" and seen.header("x-acme-region") == "eu"
    assert acme.Acme.base_url.format(acme.AcmeOptions(region="eu")) == "https://eu.acme.example"

"""What third parties get wrong: refused at assembly with a sentence, or isolated and said while serving."""

import json

import pytest

from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.errors import AssemblyError
from gwcore.gateway import Gateway
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.resources import Resources
from gwcore.testing.fakes import FakeDialect, FakeProvider
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

BODY = b'{"model": "up/m"}'


def catalog(*plugins):
    class Installed:
        @hookimpl
        def gwcore_plugins(self):
            return plugins

        @hookimpl
        def gwcore_dialects(self):
            return [FakeDialect()]

        @hookimpl
        def gwcore_providers(self):
            return [FakeProvider()]

    return Catalog(Installed())


def plugin(**members):
    return type("Mine", (Plugin,), {"name": "mine", **members})


def refused(kind, entry="mine"):
    text = f"gwcore: 1\nstack:\n  - {entry}\n"
    with pytest.raises(AssemblyError) as caught:
        assemble(text, catalog(kind), Resources(), {})
    return caught.value.message


async def served(kind, path="/fake", method="POST", entry="mine"):
    """What a client sees of a stack with the plugin."""
    async with FakeUpstream() as up:
        up.script(Answer(body=b"{}"))
        text = f"gwcore: 1\nupstreams:\n  up: {{provider: fake, base_url: '{up.url}'}}\nstack:\n  - {entry}\n"
        async with running(Gateway(text, catalog=catalog(kind))) as url:
            return await exchange(url, method, path, BODY if method == "POST" else b"")


@hookimpl
async def _async(self, call): ...


def _unmarked(self, call, outcome): ...


@hookimpl
def _swapped(self, outcome, call): ...


@hookimpl
def _call_endd(self, call): ...


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"call_started": _async}, "Mine.call_started is async"),
        ({"call_ended": _unmarked}, "Mine.call_ended is a tap: mark it @hookimpl"),
        ({"call_ended": _swapped}, "Mine.call_ended must take (self, call, outcome)"),
        ({"call_endd": _call_endd}, "no event of that name; did you mean call_ended"),
    ],
)
def test_a_tap_that_could_not_be_told(members, says):
    assert says in refused(plugin(**members))


async def _coroutine(self, inner):
    return inner


@pytest.mark.parametrize("entry", ["mine", "mine: {}\n    when: {operations: chat}"])
@pytest.mark.parametrize("ring", ["call_layer", "attempt_layer", "router"])
@pytest.mark.parametrize("member", [lambda self, inner: None, _coroutine])
def test_a_layer_that_is_no_service(ring, member, entry):
    member.__qualname__ = f"Mine.{ring}"
    assert f"Mine.{ring} returns " in refused(plugin(**{ring: member}), entry)


@pytest.mark.parametrize("said", [lambda self: 1 / 0, lambda self: {"a": object()}])
async def test_a_health_that_fails_hides_nothing_else(said):
    seen = await served(plugin(health=said), "/health", "GET")
    assert seen.status == 200
    assert set(json.loads(seen.body)["plugins"]["mine"]) == {"error"}


def _layer(act):
    def call_layer(self, inner):
        async def layer(call):
            return await act(call, inner)

        return layer

    return plugin(call_layer=call_layer)


async def test_a_header_of_text_is_a_500_that_names_the_plugin(capfd):
    async def text(call, inner):
        call.reply.add_header("x-a", "yes")
        return await inner(call)

    seen = await served(_layer(text))
    assert seen.status == 500 and seen.whole
    assert "TypeError" in "".join(capfd.readouterr())


async def test_a_header_that_comes_too_late_is_said(capfd):
    async def late(call, inner):
        outcome = await inner(call)
        call.reply.add_header(b"x-a", b"yes")
        return outcome

    seen = await served(_layer(late))
    assert seen.status == 200 and seen.whole
    assert "ReplyMisuse" in "".join(capfd.readouterr())


async def test_no_outcome_is_said(capfd):
    async def forgets(call, inner):
        await inner(call)

    assert (await served(_layer(forgets))).status == 200
    assert "return await inner(call)" in "".join(capfd.readouterr())

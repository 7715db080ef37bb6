"""What third parties get wrong: refused at assembly with a sentence, or isolated and said while serving."""

import json
from contextlib import asynccontextmanager

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


async def _not(self, *_):
    return False


async def _series(self):
    yield 1


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("visible", _not),
        ("health", _not),
        ("names", _not),
        ("explain", _not),
        ("metrics", _series),
        ("client_routes", _not),
    ],
)
def test_what_is_asked_synchronously_is_not_async(name, member):
    assert f"Mine.{name} is async" in refused(plugin(**{name: member}))


def _unmade(self, config): ...


def _wrong(self, config, setup):
    raise KeyError("a secret")


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (_unmade, "mine cannot be made: TypeError: _unmade() takes 2 positional"),
        (_wrong, f"mine cannot be made: KeyError at {__file__}:"),
    ],
)
def test_a_plugin_that_cannot_be_made_is_named(member, says):
    said = refused(plugin(__init__=member))
    assert says in said
    assert "secret" not in said


@asynccontextmanager
async def _fails(self):
    raise ValueError("a secret")
    yield


async def _no_context(self):
    yield


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (_fails, f"mine cannot start: ValueError at {__file__}:"),
        (_no_context, "mine cannot start: TypeError: "),
    ],
)
async def test_a_plugin_that_cannot_start_is_named(member, says):
    gateway = Gateway("gwcore: 1\nstack: [mine]\n", catalog=catalog(plugin(lifespan=member)))
    with pytest.raises(AssemblyError) as caught:
        await gateway.startup()
    assert says in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(("path", "method"), [("/fake", "POST"), ("/models", "GET")])
async def test_who_is_let_through_unknown_gets_nothing(capfd, path, method):
    def layer(_self, inner):
        async def forgets(call):
            return await inner(call)

        return forgets

    seen = await served(plugin(identifies=True, call_layer=layer), path, method)
    assert seen.status == 500
    assert "without a principal" in capfd.readouterr().out


async def test_a_forgotten_await_is_said(capfd):
    def layer(_self, inner):
        async def forgets(call):
            inner(call).close()  # as the collector would, with a warning

        return forgets

    assert (await served(plugin(call_layer=layer))).status == 500
    assert "a layer ended a call without an answer; write: return await inner(call)" in capfd.readouterr().out


@pytest.mark.parametrize("value", [b"a\r\nx-other: 1", b"a\n", b"a\0"])
async def test_a_header_that_would_be_two_is_a_500(capfd, value):
    def layer(_self, inner):
        async def adds(call):
            call.reply.add_header(b"x-mine", value)
            return await inner(call)

        return adds

    seen = await served(plugin(call_layer=layer))
    assert seen.status == 500
    assert "error=ValueError" in capfd.readouterr().out


def test_two_plugins_of_one_name_are_refused():
    with pytest.raises(AssemblyError, match="two plugins are named 'mine'"):
        catalog(plugin(), plugin())


async def test_what_is_held_may_be_asked_again_otherwise():
    def layer(_self, inner):
        async def again(call):
            async with call.reply.hold():
                await inner(call)
                call.edit()["again"] = True
                return await inner(call)

        return again

    async with FakeUpstream() as up:
        up.script(Answer(body=b'{"first": 1}'), Answer(body=b'{"second": 2}'))
        text = f"gwcore: 1\nupstreams:\n  up: {{provider: fake, base_url: '{up.url}'}}\nstack: [mine]\n"
        async with running(Gateway(text, catalog=catalog(plugin(call_layer=layer)))) as url:
            seen = await exchange(url, "POST", "/fake", BODY)
        assert seen.body == b'{"second": 2}'
        assert ["again" in json.loads(request.body) for request in up.requests] == [False, True]


async def test_of_a_head_that_cannot_leave_no_body_does():
    def layer(_self, inner):
        async def breaks(call):
            async with call.reply.hold() as held:
                outcome = await inner(call)
                held.headers[:] = [(b"content-type", b"text/event-stream"), (b"x-mine", b"a\r\nx-other: 1")]
            return outcome

        return breaks

    assert (await served(plugin(call_layer=layer))).status == 500  # the error event had no head before it

"""The kit can fail: each of these plugins is wrong in one way, and the test that is for it must say so."""

import re

import pytest

from gwcore.call import Call, Outcome
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore.reply import ReplyMisuse
from gwcore.testing.conformance import PluginConformance


class Text(Plugin):
    name = "text"

    def call_layer(self, inner):
        async def layer(call: Call):
            call.reply.add_header("x-a", "yes")
            return await inner(call)

        return layer


class TextInCommit(Plugin):
    name = "text"

    def call_layer(self, inner):
        async def layer(call: Call):
            await call.reply.commit(200, [("x-a", "yes")])
            await call.reply.end(b"")
            return Outcome(200)

        return layer


class Late(Plugin):
    name = "late"

    def call_layer(self, inner):
        async def layer(call: Call):
            outcome = await inner(call)
            call.reply.add_header(b"x-a", b"yes")
            return outcome

        return layer


class Returnless(Plugin):
    name = "returnless"

    def call_layer(self, inner):
        async def layer(call: Call):
            await inner(call)

        return layer


class AsyncTap(Plugin):
    name = "asynctap"

    @hookimpl
    async def call_started(self, call): ...


class Unmarked(Plugin):
    name = "unmarked"

    def call_ended(self, call, outcome): ...


class NoUsage(Plugin):
    name = "nousage"

    @hookimpl
    def call_ended(self, call, outcome):
        outcome.usage.total


class NoModel(Plugin):
    name = "nomodel"

    @hookimpl
    def call_ended(self, call, outcome):
        call.model.upper()


class Unhealthy(Plugin):
    name = "unhealthy"

    def health(self):
        return {"calls": {1, 2}}


CASES = [
    (Text, "test_a_call_goes_through", TypeError, "add_header takes bytes"),
    (TextInCommit, "test_a_call_goes_through", AssertionError, "pairs of bytes"),
    (Late, "test_a_call_goes_through", ReplyMisuse, "before inner"),
    (Returnless, "test_a_call_goes_through", AssertionError, "return await inner(call)"),
    (AsyncTap, "test_taps_take_every_event", Exception, "is async"),
    (Unmarked, "test_taps_take_every_event", Exception, "mark it @hookimpl"),
    (NoUsage, "test_taps_take_every_event", AttributeError, "'NoneType'"),
    (NoModel, "test_taps_take_every_event", AttributeError, "'NoneType'"),
    (Unhealthy, "test_health_is_json", TypeError, "not JSON serializable"),
]


@pytest.mark.parametrize(("plugin", "test", "error", "says"), CASES, ids=lambda c: getattr(c, "__name__", None))
def test_the_kit_finds(plugin, test, error, says):
    kit = type("Kit", (PluginConformance,), {"kind": plugin})()
    with pytest.raises(error, match=re.escape(says)):
        getattr(kit, test)(*((False,) if test == "test_a_call_goes_through" else ()))

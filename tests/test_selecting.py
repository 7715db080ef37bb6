"""Plugins that choose the model, and plugins that answer clients themselves."""

import json
from dataclasses import replace

import pytest

from gwcore.assemble import assemble
from gwcore.call import Outcome, Principal
from gwcore.errors import AssemblyError
from gwcore.gateway import Gateway
from gwcore.plugin import Plugin
from gwcore.resources import Resources
from gwcore.show import walk
from gwcore.testing.fakes import FakeDialect, call
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange
from tests.test_plugins import catalog

STACK = "gwcore: 1\nupstreams:\n  up: {{provider: fake, base_url: '{}'}}\nmodels: {{a: up/a, b: up/b}}\nstack: [{}]\n"


class Who(Plugin):
    """Says who calls; everybody may use what the header lists."""

    name = "who"
    identifies = True

    def call_layer(self, inner):
        async def who(call):
            call.principal = Principal("k", tags=frozenset((call.header(b"may") or b"").decode().split()))
            return await inner(call)

        return who

    def visible(self, call, model):
        return model in call.principal.tags


class Choose(Plugin):
    """The model is what the header says."""

    name = "choose"
    selects = True

    def call_layer(self, inner):
        async def choose(call):
            assert call.principal is not None and not call.targets
            self.explain(call)
            return await inner(call)

        return choose

    def explain(self, call):
        if (wanted := call.header(b"choose")) is not None:
            call.model = wanted.decode()
        return f"chose {call.model}, tags {sorted(call.tags)}"

    def names(self):
        return {"any": self.setup.models.resolve("b")}


class Echo(Plugin):
    """Answers at an address of its own."""

    name = "echo"

    def client_routes(self):
        dialect = next(iter(self.setup.dialects.values()))
        yield dialect, replace(dialect.routes[0], path="/echo")

    async def answer(self, call):
        body = json.dumps([call.principal and call.principal.id, call.model, len(call.attempts)]).encode()
        await call.reply.commit(200, [(b"content-length", b"%d" % len(body))])
        await call.reply.end(body)
        return Outcome(200)


class Outer(Plugin):
    name = "outer"

    def call_layer(self, inner):
        return inner


class Listed(FakeDialect):
    routes = (
        *FakeDialect.routes,
        replace(FakeDialect.routes[0], method="GET", path="/names", model="none", body="none", local=True),
    )


def installed():
    return catalog(Who, Choose, Echo, Outer, type("Echo2", (Echo,), {"name": "echo2"}))


async def asked(url, **headers):
    seen = await exchange(url, "POST", "/fake", b'{"model": "a"}', list(headers.items()))
    return seen.status, json.loads(seen.body)


async def test_another_model_is_used_where_the_caller_may():
    async with FakeUpstream() as up:
        up.default = Answer(body=b"{}")
        async with running(Gateway(STACK.format(up.url, "who, choose"), catalog=installed())) as url:
            assert (await asked(url, may="a"))[0] == 200
            assert (await asked(url, may="a b", choose="b"))[0] == 200
            status, said = await asked(url, may="a", choose="b")
            assert status == 403 and said["error"]["message"] == "this credential may not use b"
            # what the client wrote itself is its own plugin's affair
            assert (await asked(url, may=""))[0] == 200
            assert (await asked(url, may="a b nowhere", choose="nowhere"))[0] == 404
        assert [seen.document["model"] for seen in up.requests] == ["a", "b", "a"]


@pytest.mark.parametrize("stack", ["outer, choose", "who, outer, choose", "choose, who"])
def test_it_stands_behind_who_and_before_all_else(stack):
    with pytest.raises(AssemblyError, match=r"before outer|the first entry of stack"):
        assemble(STACK.format("http://h", stack), installed(), Resources(), {})


async def test_a_plugin_answers_clients_at_its_own_address():
    async with running(Gateway(STACK.format("http://127.0.0.1:1", "who, outer, echo"), catalog=installed())) as url:
        seen = await exchange(url, "POST", "/v1/echo", b'{"model": "a"}')
        assert (seen.status, json.loads(seen.body)) == (200, ["k", "a", 0])
        assert (await exchange(url, "POST", "/v1/echo", b"{}")).status == 400
        assert (await exchange(url, "GET", "/v1/echo")).status == 404


def test_one_address_is_answered_by_one_plugin():
    with pytest.raises(AssemblyError, match="POST /echo is answered by echo and echo2"):
        assemble(STACK.format("http://h", "echo, echo2"), installed(), Resources(), {})


def test_a_plugin_that_offers_no_answer_says_so():
    plugin = Outer(None, None)
    assert (list(plugin.client_routes()), plugin.names(), plugin.visible(call(), "m")) == ([], {}, True)
    with pytest.raises(NotImplementedError):
        plugin.answer(call()).send(None)


def test_explain_tells_of_it_before_names_are_resolved(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gwcore.show.Catalog", installed)
    monkeypatch.setattr("gwcore.show.console._file", None)
    file = tmp_path / "stack.yaml"
    file.write_text(STACK.format("http://h", "choose, outer"))
    walk(file, b'{"model": "a"}', "fake.chat", "chat", ["Choose: b", "x-gwcore-tags: x, y"])
    told = capsys.readouterr().out
    assert "choose: chose b, tags ['x', 'y']" in told and "targets    up/b" in told
    with pytest.raises(Exception, match="'nothing' is not a header: write name: value"):
        walk(file, b'{"model": "a"}', "fake.chat", "chat", ["nothing"])


async def test_names_of_a_plugin_are_listed_as_far_as_they_may_be_used(monkeypatch):
    monkeypatch.setattr("tests.test_plugins.FakeDialect", Listed)
    async with running(Gateway(STACK.format("http://127.0.0.1:1", "who, choose"), catalog=installed())) as url:
        for may, names in (("a any", ["a", "any"]), ("b", ["b"]), ("", [])):
            assert json.loads((await exchange(url, "GET", "/names", b"", [("may", may)])).body) == names

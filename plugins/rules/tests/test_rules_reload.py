"""A file of rules that changes while it is in force: sound edits are taken, bad ones are told of and change nothing."""

import asyncio
import json
import os
from contextlib import asynccontextmanager

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore_rules.book import Book
from gwcore_rules.watch import Watched
from tests.stacks.raw import exchange
from tests.stacks.test_reload import keeps, reconnects
from tests.test_cli import Serving

STACK = """\
gwcore: 1
upstreams: {demo: {provider: demo}}
models: {small: demo/s, large: demo/l, house: demo/h}
stack:
  - rules: {file: rules.yaml, reload: 50ms}
"""
BODY = json.dumps({"model": "house", "messages": [{"role": "user", "content": "hi"}]}).encode()


def rules(model, more=""):
    return f"rules:\n  - name: r\n    model: {model}\n{more}"


async def answered(url):
    seen = await exchange(url, "POST", "/v1/chat/completions", BODY)
    assert seen.status == 200
    return seen.headers["x-gwcore-model"]


async def health(url):
    return json.loads((await exchange(url, "GET", "/health")).body)["plugins"]["rules"]


async def until(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(tmp_path, text):
    (tmp_path / "stack.yaml").write_text(STACK)
    (tmp_path / "rules.yaml").write_text(text)
    async with running(Gateway(tmp_path / "stack.yaml")) as url:
        yield url, tmp_path / "rules.yaml"


async def test_a_sound_edit_is_taken_and_a_bad_one_is_not(tmp_path):
    async with serving(tmp_path, rules("small")) as (url, file):
        assert await answered(url) == "s"
        first = await health(url)
        assert (first["rules"], first["problems"]) == (1, [])

        file.write_text(rules("large"))

        async def large():
            return await answered(url) == "l"

        await until(large)
        second = await health(url)
        assert second["digest"] != first["digest"]

        file.write_text(rules("large") + "    modle: small\n  - name: r2\n    cheaper: smal\n")

        async def told():
            return (await health(url))["problems"]

        await until(told)
        now = await health(url)
        assert (now["rules"], now["digest"]) == (1, second["digest"])
        assert any(":4:5: rules.0.modle: unknown key. Mend: did you mean model?" in one for one in now["problems"])
        assert await answered(url) == "l"

        file.write_text(rules("nowhere"))

        async def unknown():
            return any("no model named 'nowhere'" in one for one in (await health(url))["problems"])

        await until(unknown)
        file.write_text(rules("small"))

        async def mended():
            now = await health(url)
            return now["digest"] == first["digest"] and not now["problems"]

        await until(mended)
        assert await answered(url) == "s"


BROKEN = {
    "no YAML": "rules: [",
    "empty": "",
    "a list": "- a",
    "unknown key": rules("small", "    colour: red\n"),
    "unknown model": rules("smal"),
    "a rule that does nothing": rules("small", "    max_cost: $1\n"),
    "twice": rules("small") + "  - name: r\n",
    "bytes": b"\xff\xfe\x00",
    "gone": None,
}


@pytest.mark.parametrize("edit", BROKEN)
async def test_no_edit_takes_the_rules_away(tmp_path, edit):
    async with serving(tmp_path, rules("large")) as (url, file):
        if BROKEN[edit] is None:
            file.unlink()
        else:
            file.write_bytes(BROKEN[edit] if isinstance(BROKEN[edit], bytes) else BROKEN[edit].encode())

        async def told():
            return (await health(url))["problems"]

        await until(told)
        assert all("rules.yaml:" in one for one in (await health(url))["problems"])
        assert await answered(url) == "l"


async def test_negative_control_a_reader_that_takes_what_it_cannot_read(tmp_path, monkeypatch):
    monkeypatch.setattr("gwcore_rules.watch.Watched.look", lambda _: Book(digest="bad"))
    async with serving(tmp_path, rules("large")) as (url, file):
        file.write_text("rules: [")

        async def taken():
            return (await health(url))["digest"] == "bad"

        await until(taken)
        assert await answered(url) == "h"


def test_a_file_that_is_being_written_is_not_read(tmp_path):
    file, read = tmp_path / "f", []

    def reading(path):
        read.append(path)
        return Book()

    file.write_text("a")
    watched = Watched(str(file), reading)
    assert watched.look() is None and watched.look() is None
    for text in ("ab", "abc"):
        file.write_text(text)
        assert watched.look() is None
    assert not read and watched.look() is not None and watched.look() is None and len(read) == 1
    file.write_text("abcd")
    assert watched.look(settled=False) is not None


def test_a_file_is_changed_where_another_takes_its_place(tmp_path):
    """As a ConfigMap is: a link that points elsewhere, perhaps to a file of the same size and time."""
    old, new, link = tmp_path / "a", tmp_path / "b", tmp_path / "rules"
    for one in (old, new):
        one.write_text("x")
        os.utime(one, ns=(1, 1))
    link.symlink_to(old)
    watched = Watched(str(link), lambda _: Book())
    link.unlink()
    link.symlink_to(new)
    assert watched.look(settled=False) is not None


@pytest.mark.timeout(120)
async def test_no_request_fails_while_rules_change_under_two_loaded_workers(tmp_path):
    stack, file = tmp_path / "stack.yaml", tmp_path / "rules.yaml"
    stack.write_text(STACK.replace(", reload: 50ms", ""))
    file.write_text(rules("house"))
    with Serving(stack, "--workers", "2") as gateway:
        url = gateway.url
        over, done, failed = asyncio.Event(), [], []
        clients = [
            asyncio.create_task(client(url, over, done, failed, stream=stream))
            for client in (keeps, reconnects)
            for stream in (True, False)
        ]

        async def all_say(model):
            """Fresh connections in turn, so with high odds both workers."""
            return {await answered(url) for _ in range(16)} == {model}

        async def all_told():
            return all([(await health(url))["problems"] for _ in range(16)])

        for text, model in ((rules("small"), "s"), (rules("large"), "l"), ("rules: [", "l"), (rules("small"), "s")):
            before = len(done)
            file.write_text(text)
            if text == "rules: [":
                await until(all_told)
            await until(lambda model=model: all_say(model))
            assert len(done) > before
        over.set()
        await asyncio.gather(*clients)
    assert not failed
    assert {seen.headers["x-gwcore-model"] for seen in done} == {"h", "s", "l"}


def test_without_sound_rules_nothing_starts(tmp_path):
    (tmp_path / "stack.yaml").write_text(STACK)
    (tmp_path / "rules.yaml").write_text("rules: [")

    async def start():
        async with Gateway(tmp_path / "stack.yaml"):
            pass

    with pytest.raises(Exception, match=r"rules\.yaml:1:9: is not YAML"):
        asyncio.run(start())

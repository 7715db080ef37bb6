"""Reference pages are what the code says, and the guide's examples are real."""

import asyncio
import importlib
import re
import secrets
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.codec import both_ways
from gwcore.gateway import Gateway
from gwcore.hookspecs import Registration, Watching
from gwcore.plugin import Plugin
from gwcore.resources import Resources
from gwcore.template import create_plugin
from gwcore.testing.server import running

ROOT = Path(__file__).parent.parent
SECRET = secrets.token_hex(32)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/guide").glob("*.md"))]


def test_reference_is_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "page",
    sorted(ROOT.glob("plugins/*/README.md")) + sorted(ROOT.glob("plugins/*/docs/*.md")),
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_tables_of_options_are_generated(page):
    """Written by hand, they said something else than the descriptions."""
    tables = re.split(r"\n(?=\| \w+ \| default \|)", page.read_text())
    assert all(re.search(r"<!-- options: \S+ -->\n$", before) for before in tables[:-1])


def test_every_hook_is_documented():
    page = (ROOT / "docs/reference/hooks.md").read_text()
    names = [n for kind in (Registration, Watching) for n in vars(kind) if not n.startswith("_")]
    assert names and not [name for name in names if f"### {name}\n" not in page]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_in_the_guide_compiles(page):
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(
            code
            if not code.startswith(("slot", "@hookimpl"))
            else f"async def f():\n{re.sub('^', '    ', code, flags=re.M)}",
            page.name,
            "exec",
        )


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


STACKS = [(page, text) for page in [*PAGES, *sorted(ROOT.glob("[ep]*/*/README.md"))] for text in blocks(page, "yaml")]


@pytest.fixture(scope="module")
def stamp(tmp_path_factory):
    """The plugin that the guide makes with ``gwcore new plugin stamp``."""
    folder = create_plugin("stamp", tmp_path_factory.mktemp("new"))
    sys.path.insert(0, str(folder / "src"))
    yield importlib.import_module("gwcore_stamp")
    sys.path.remove(str(folder / "src"))
    for name in [name for name in sys.modules if name.startswith("gwcore_stamp")]:
        del sys.modules[name]


@pytest.mark.parametrize(("page", "text"), STACKS, ids=lambda p: p.name if isinstance(p, Path) else "")
def test_every_stack_file_is_sound(page, text, stamp, tmp_path):
    """A part of one is checked as the whole it would be part of."""
    file = tmp_path / "stack.yaml"
    file.write_text(text if text.startswith("gwcore:") else f"gwcore: 1\n{text}")
    for name in re.findall(r"\$\{file:([^}]+)\}", text):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(SECRET)
    assemble(file, Catalog(stamp), Resources(), dict.fromkeys(re.findall(r"\$\{([A-Z_0-9]+)", text), SECRET))


async def test_the_guide_s_tests_pass(stamp):
    """As pasted into what ``gwcore new plugin stamp`` makes; that it is installed is all that is added."""
    found = {"Catalog": Catalog, "stamp": stamp}
    for code in blocks(ROOT / "docs/guide/write-a-layer.md", "python"):
        if "async def test_" in code:
            exec(code.replace("Gateway(stack)", "Gateway(stack, catalog=Catalog(stamp))"), found)
    ours = [made for name, made in found.items() if name.startswith("test_")]
    assert len(ours) == 2
    for test in ours:
        await test()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/messages", {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1beta/models/demo%2Fdemo:streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": "Hi"}]}]}),
    ],
)
async def test_a_stream_is_told_again_as_the_guide_says(path, body):
    [code] = [code for code in blocks(ROOT / "docs/guide/write-a-layer.md", "python") if "def retold" in code]
    exec(code, named := {})

    class Retelling(Plugin):
        """Hides every word."""

        name = "retelling"
        secret = re.compile(r"[A-Za-z]+")

        def call_layer(self, inner):
            async def retell(call):
                async with call.reply.hold() as held:
                    outcome = await inner(call)
                    held.body[:] = [named["retold"](self, both_ways(call.dialect.chat), call, held)]
                return outcome

            return retell

    class Brought:
        def gwcore_plugins(self):
            return [Retelling]

    stack = "gwcore: 1\nupstreams: {demo: {provider: demo}}\nstack: [retelling]\n"
    if "models" not in path:
        body = {"model": "demo/demo", "stream": True, **body}
    async with running(Gateway(stack, catalog=Catalog(Brought()))) as url, httpx2.AsyncClient() as http:
        answer = await http.post(url + path, json=body)
    assert answer.status_code == 200
    assert "[hidden] [hidden]" in answer.text
    assert "This" not in answer.text


async def test_first_steps_work_with_every_sdk():
    page = ROOT / "docs/guide/first-steps.md"
    [stack], [code] = blocks(page, "yaml"), blocks(page, "python")
    async with running(Gateway(stack)) as url:
        # a process of its own: a page's clients are closed by its end
        there = code.replace("http://127.0.0.1:4000", url)
        run = await asyncio.create_subprocess_exec(sys.executable, "-c", there, stderr=asyncio.subprocess.PIPE)
        _, said = await run.communicate()
    assert run.returncode == 0, said.decode()


def test_there_are_stack_files():
    assert len([page for page, _ in STACKS if page in PAGES]) >= 3

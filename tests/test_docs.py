"""Reference pages are what the code says, and the guide's examples are real."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gwcore.catalog import Catalog
from gwcore.config import read
from gwcore.hookspecs import Registration, Watching
from gwcore.stackfile import load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/guide").glob("*.md"))]


def test_reference_is_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_whole_stack_files_in_the_guide_are_sound():
    env = {"OPENAI_API_KEY": "sk-for-the-test"}
    found = 0
    for page in PAGES:
        for text in re.findall(r"```yaml\n(gwcore: 1\n.*?)```", page.read_text(), re.DOTALL):
            read(load(text), env=env, registry=Catalog())
            found += 1
    assert found >= 2

"""``gwcore new plugin NAME``: a distribution of its own that passes the conformance kit at once."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from gwcore.errors import BadConfig

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")

_FILES = {
    "pyproject.toml": """\
[project]
name = "gwcore-$dash"
version = "0.1.0"
description = "What $name does, in one line"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["gwcore"]

# the entry point's name is the word in the stack file
[project.entry-points.gwcore]
$name = "gwcore_$name"

[dependency-groups]
dev = ["pytest>=9"]

[build-system]
requires = ["uv_build>=0.9,<0.14"]
build-backend = "uv_build"
""",
    "README.md": """\
# gwcore-$dash

Adds a header to every response.

```yaml
stack:
  - $name: {header: x-$dash}
```

| option | meaning |
|---|---|
| `header` | name of the response header |
| `value` | its value |
""",
    "src/gwcore_$name/__init__.py": '''\
"""The ``$name`` plugin."""

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin
from gwcore_$name.plugin import $cls


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """What this distribution offers."""
    return [$cls]
''',
    "src/gwcore_$name/plugin.py": '''\
"""One layer, once per call."""

from __future__ import annotations

from gwcore.call import Call, Outcome
from gwcore.plugin import Plugin, Setup
from gwcore.service import Service
from pydantic import BaseModel, ConfigDict, Field


class ${cls}Config(BaseModel):
    """Settings of ``$name``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    header: str = Field(default="x-$dash", description="Name of the response header.", pattern="^[a-z0-9-]+$$")
    value: str = Field(default="yes", description="Its value.", pattern="^[ -~]*$$")


class $cls(Plugin):
    """Adds a header to every response."""

    name = "$name"
    Config = ${cls}Config

    def __init__(self, config: ${cls}Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self._header = (config.header.encode(), config.value.encode())

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        async def $name(call: Call) -> Outcome:
            call.reply.add_header(*self._header)
            return await inner(call)

        return $name
''',
    "tests/test_conformance.py": '''\
"""Everything the kit asks of a plugin."""

from pathlib import Path

from gwcore.testing.conformance import PluginConformance
from gwcore_$name.plugin import $cls


class Test$cls(PluginConformance):
    kind = $cls
    readme = Path(__file__).parent.parent / "README.md"
''',
}


def create_plugin(name: str, into: Path) -> Path:
    """Write the files; returns the folder.

    Raises:
        BadConfig: a name that is no Python identifier in lower case, or a folder that is there already.
    """
    if not _NAME.fullmatch(name):
        raise BadConfig(
            f"{name!r}: a plugin's name is lower case letters, digits and underscores, and begins with a letter"
        )
    dash = name.replace("_", "-")
    folder = into / f"gwcore-{dash}"
    if folder.exists():
        raise BadConfig(f"{folder} exists already")
    words = {"name": name, "dash": dash, "cls": name.title().replace("_", "")}
    for path, text in _FILES.items():
        file = folder / Template(path).substitute(words)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(words), encoding="utf-8")
    (folder / f"src/gwcore_{name}/py.typed").touch()
    return folder

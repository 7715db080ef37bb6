"""``gwcore new plugin|provider NAME``: a distribution of its own that passes its conformance kit at once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from gwcore import __version__
from gwcore.errors import BadConfig

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")

_COMMON = {
    "pyproject.toml": """\
[project]
name = "gwcore-$dash"
version = "0.1.0"
description = "What $name does, in one line"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["gwcore>=$core"]

# the entry point's name is the word in the stack file
[project.entry-points.gwcore]
$name = "gwcore_$name"

[dependency-groups]
dev = ["pytest>=9", "pytest-asyncio>=1.3"]

[tool.pytest.ini_options]
asyncio_mode = "auto"

[build-system]
requires = ["uv_build>=0.9,<0.14"]
build-backend = "uv_build"
""",
}

_PLUGIN = {
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


_PROVIDER = {
    "README.md": """\
# gwcore-$dash

A vendor that speaks OpenAI's dialect under its own address.

```yaml
upstreams:
  $dash: {provider: $name, api_key: "$${${upper}_API_KEY}"}
stack: []
```
""",
    "src/gwcore_$name/__init__.py": '''\
"""The provider ``$name``."""

from gwcore.hookspecs import hookimpl
from gwcore.provider import Provider
from gwcore_$name.provider import $cls


@hookimpl
def gwcore_providers() -> list[Provider]:
    """What this distribution offers."""
    return [$cls()]
''',
    "src/gwcore_$name/provider.py": '''\
"""Where its operations are, and how it takes a key."""

from __future__ import annotations

from collections.abc import Mapping

from gwcore.provider import Upstream
from gwcore.wire.transport import Headers, Transport
from pydantic import BaseModel

# (dialect, operation) -> path below base_url
_PATHS = {
    ("openai.chat", "chat"): "/chat/completions",
    ("openai.chat", "embeddings"): "/embeddings",
}


class $cls:
    """One object serves every upstream that names it, so it keeps no state."""

    name = "$name"
    base_url: str | None = "https://api.$dash.example/v1"
    env_key: str | None = "${upper}_API_KEY"
    Options: type[BaseModel] | None = None

    def address(
        self, upstream: Upstream, dialect: str, operation: str, model: str, params: Mapping[str, str], *, stream: bool
    ) -> tuple[str, bool] | None:
        """Path and query, and whether the body names the model; ``None``: not served."""
        path = _PATHS.get((dialect, operation))
        return (upstream.base_path + path, True) if path else None

    def credential(self, api_key: str | None, options: BaseModel | None) -> Headers:
        """Headers that go to this upstream's origin and nowhere else."""
        return [(b"authorization", b"Bearer " + api_key.encode())] if api_key else []

    def transport(self, gateway: Transport, api_key: str | None, options: BaseModel | None) -> Transport:
        """The gateway's own, or one that stands before it: tokens that expire, signatures, another framing."""
        return gateway

    def quirks(self, upstream: Upstream, model: str) -> frozenset[str]:
        """What a translated request must heed; see ``gwcore.codec``."""
        return frozenset()
''',
    "tests/test_conformance.py": '''\
"""Everything the kit asks of a provider."""

from gwcore.testing.provider_conformance import ProviderConformance
from gwcore_$name.provider import $cls


class Test$cls(ProviderConformance):
    provider = $cls()
    operations = [("openai.chat", "chat"), ("openai.chat", "embeddings")]
''',
}


def create_plugin(name: str, into: Path) -> Path:
    """Write a plugin's files; see :func:`_create`."""
    return _create(name, into, _PLUGIN)


def create_provider(name: str, into: Path) -> Path:
    """Write a provider's files; see :func:`_create`."""
    return _create(name, into, _PROVIDER)


def _create(name: str, into: Path, files: Mapping[str, str]) -> Path:
    """Write the files; returns the folder.

    Raises:
        BadConfig: a name that is no Python identifier in lower case or is a keyword, or a folder that is there already.
    """
    if not _NAME.fullmatch(name):
        raise BadConfig(f"{name!r}: a name is lower case letters, digits and underscores, and begins with a letter")
    if keyword.iskeyword(name) or keyword.iskeyword(name.title()):
        raise BadConfig(f"{name!r}: is a keyword of Python; choose another")
    dash = name.replace("_", "-")
    folder = into / f"gwcore-{dash}"
    if folder.exists():
        raise BadConfig(f"{folder} exists already")
    major, minor, *_ = __version__.split(".")
    core = f"{major}.{minor},<{major}.{int(minor) + 1}"  # before 1.0, a minor version may change the hooks
    words = {"core": core, "name": name, "dash": dash, "cls": name.title().replace("_", ""), "upper": name.upper()}
    for path, text in {**_COMMON, **files}.items():
        file = folder / Template(path).substitute(words)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(words), encoding="utf-8")
    (folder / f"src/gwcore_{name}/py.typed").touch()
    return folder

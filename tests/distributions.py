"""Distributions as pip would have installed them: a module, its metadata and its entry points in a folder."""

import sys

import pytest


def install(folder, name, entry_points, source):
    """Write module ``name`` and what announces it; ``entry_points`` maps words of the stack file to modules."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [f"{word} = {module}" for word, module in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[gwcore]", *lines, ""]))
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """``installed(name, entry_points, source)``: importable and found in this process until the test ends."""
    folder, before = tmp_path / "site", set(sys.modules)
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield lambda *what: install(folder, *what)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


PROVIDER = """
from gwcore.hookspecs import hookimpl
from gwcore.testing.fakes import FakeDialect, FakeProvider

class Imaginary(FakeProvider):
    name = "imaginary"
    env_key = "IMAGINARY_API_KEY"

class Dialect(FakeDialect):
    name = "imaginary.chat"

@hookimpl
def gwcore_providers():
    return [Imaginary()]

@hookimpl
def gwcore_dialects():
    return [Dialect()]
"""

PLUGIN = """
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin

class Mists(Plugin):
    name = "mists"

@hookimpl
def gwcore_plugins():
    return [Mists]
"""

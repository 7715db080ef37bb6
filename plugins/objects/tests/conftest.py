"""Fixtures of the tests here; what they are made of is in ``objects_world``."""

import pytest
from objects_world import store_url  # noqa: F401


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Stacks that name no store have it where they are started."""
    monkeypatch.chdir(tmp_path)

"""Fixtures of the tests here; what they are made of is in ``auth_world``."""

import pytest
from auth_world import admin_key, api, hold, seen, serve, sqlite_api, sqlite_url, store_url, upstream  # noqa: F401


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Stacks that name no store, or no place for journals, have them where they are started."""
    monkeypatch.chdir(tmp_path)

"""Fixtures of the tests here; what they are made of is in ``auth_world``."""

from auth_world import admin_key, api, hold, seen, serve, sqlite_api, sqlite_url, store_url, upstream  # noqa: F401

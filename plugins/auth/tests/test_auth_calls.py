"""Calls: who gets in, who does not, and what the upstream saw."""

import asyncio

import pytest


async def test_a_key_works_until_it_is_deleted(api, upstream):
    key = await api.key(models=["m"])
    assert key.startswith("sk-")
    answer = await api.chat(key)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "hi"
    await api.post("/key/delete", {"keys": [key]})
    assert (await api.chat(key)).status_code == 401
    assert len(upstream.requests) == 1
    assert not [v for name, v in upstream.requests[0].headers if key in v or "Bearer sk-" in v]


async def test_the_admin_key_calls_too(api, admin_key):
    assert (await api.chat(admin_key, "up/anything")).status_code == 200

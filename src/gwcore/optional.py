"""Upstreams that exist only if their key is set: ``optional: true`` with an empty ``api_key`` means absent."""

from __future__ import annotations

from typing import Any


def without_absent(data: Any) -> Any:
    """The stack file's data without absent upstreams, and without the targets under ``models`` that name them."""
    upstreams = data.get("upstreams") if isinstance(data, dict) else None
    if not isinstance(upstreams, dict):
        return data
    absent = {
        name
        for name, entry in upstreams.items()
        if isinstance(entry, dict) and entry.get("optional") is True and not entry.get("api_key")
    }
    if not absent:
        return data
    data = {**data, "upstreams": {name: entry for name, entry in upstreams.items() if name not in absent}}
    if isinstance(data.get("models"), dict):
        kept = {name: _present(meaning, absent) for name, meaning in data["models"].items()}
        data["models"] = {name: meaning for name, meaning in kept.items() if meaning not in (None, [])}
    return data


def _present(meaning: Any, absent: set[str]) -> Any:
    if isinstance(meaning, str):
        return None if meaning.partition("/")[0] in absent else meaning
    if isinstance(meaning, list) and meaning:
        return [target for target in meaning if not isinstance(target, str) or target.partition("/")[0] not in absent]
    return meaning

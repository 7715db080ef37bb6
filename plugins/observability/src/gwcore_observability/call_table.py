"""The table of ``request_log``. Times are milliseconds since the epoch, UTC; ``record`` and ``content`` are JSON."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table, Text

from gwcore.sql import Migrations
from gwcore_observability.content import Content
from gwcore_observability.record import Record

MIGRATIONS = Migrations("request_log", "gwcore_observability.migrations", head="request_log_0001")

CALL = Table(
    "request_log",
    MetaData(),
    Column("event", String(36), primary_key=True),
    Column("id", String(64), nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("operation", String(64), nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("model", Text),
    Column("served_model", Text),
    Column("upstream", String(128)),
    Column("key_id", String(128)),
    Column("team_id", String(128)),
    Column("user_id", String(128)),
    Column("organisation_id", String(128)),
    Column("end_user", Text),
    Column("session", Text),
    Column("reason", String(64)),
    Column("cache", String(32)),
    Column("micros", BigInteger, nullable=False),
    Column("first_token_micros", BigInteger),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("cost_nano", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Column("content", Text),
)


def row_of(record: Record, content: Content | None) -> dict[str, Any]:
    """A record as a row."""
    first = record.first_token_s
    return {
        "event": record.event,
        "id": record.id,
        "ended": record.ended_ns // 1_000_000,
        "state": record.state,
        "status": record.status,
        "operation": record.operation,
        "stream": record.stream,
        "model": _text(record.model),
        "served_model": _text(record.served_model),
        "upstream": record.upstream,
        "key_id": record.key,
        "team_id": record.team,
        "user_id": record.user,
        "organisation_id": record.organisation,
        "end_user": _text(record.end_user),
        "session": _text(record.session),
        "reason": record.reason,
        "cache": record.cache,
        "micros": (record.ended_ns - record.started_ns) // 1000,
        "first_token_micros": None if first is None else round(first * 1e6),
        "tokens_in": record.total_in,
        "tokens_out": record.total_out,
        "cost_nano": record.cost_nano,
        "attempts": len(record.attempts),
        "record": record.json().decode(),
        "content": None if content is None else orjson.dumps(content, default=str).decode(),
    }


def _text(value: str | None) -> str | None:
    """The text without NUL, which PostgreSQL rejects."""
    return value.replace("\0", "�") if value else value

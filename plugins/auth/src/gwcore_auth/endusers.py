"""The end user on whose behalf a client calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from gwcore.call import Call, words
from gwcore.errors import BadRequest

HEADERS = (b"x-gwcore-end-user", b"x-litellm-end-user-id", b"x-litellm-customer-id", b"x-openwebui-user-id")
"""The first one present counts. Open WebUI's: https://docs.openwebui.com (``ENABLE_FORWARD_USER_INFO_HEADERS``)."""
_LONGEST = 256
_SESSION = re.compile(r"_session_[0-9a-f-]+\Z")


def end_user_of(call: Call, headers: Sequence[bytes] = HEADERS) -> str | None:
    """The end user named by one of ``headers``, OpenAI's ``user`` or Anthropic's ``metadata.user_id``; ``None`` if there is none.

    Raises ``BadRequest`` for an id that cannot be stored.
    """
    header, document = call.header(*headers), call.document
    said: Any = None if header is None else words(header)
    if said is None and document is not None:
        said = document.get("user")
        if said is None:
            about = document.get("metadata")
            said = about.get("user_id") if type(about) is dict else None
            if isinstance(said, str):
                said = _person(said)
    if not isinstance(said, str) or not said:
        return None
    if len(said) > _LONGEST:
        raise BadRequest(f"the end user's id is longer than {_LONGEST} characters")
    if "\0" in said:  # PostgreSQL rejects it in text, so neither a customer nor its spend could be stored
        raise BadRequest("the end user's id contains a NUL character")
    return said


def _person(said: str) -> str:
    """The id that Claude Code sends, without its session: else each session would be an end user with its own limits.

    ``user_…_account_…_session_…``; since 2.1.78 the same three as a JSON object. Both give the same id.
    """
    if not said.startswith("{"):
        return _SESSION.sub("", said)
    try:
        parts = orjson.loads(said)
    except orjson.JSONDecodeError:
        return said
    return f"user_{parts['device_id']}_account_{parts.get('account_uuid') or ''}" if "device_id" in parts else said

"""The end user: whom a client asks for."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gwcore.call import Call, words
from gwcore.errors import BadRequest

_HEADERS = (b"x-gwcore-end-user", b"x-litellm-end-user-id", b"x-litellm-customer-id")
"""The first that is there counts."""
_LONGEST = 256
_SESSION = re.compile(r"_session_[0-9a-f-]+\Z")


def end_user_of(call: Call) -> str | None:
    """Whom the client says it asks for: a header, OpenAI's ``user``, or Anthropic's ``metadata.user_id``."""
    header, document = call.header(*_HEADERS), call.document
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
        raise BadRequest(f"the end user's id is over {_LONGEST} characters")
    if "\0" in said:  # PostgreSQL keeps no text with it: neither a customer nor what was spent for one
        raise BadRequest("the end user's id holds a NUL character")
    return said


def _person(said: str) -> str:
    """What Claude Code writes, without its session: else each session would be an end user, with limits of its own.

    ``user_…_account_…_session_…``; since 2.1.78 the same three as a JSON object. Both give the same id.
    """
    if not said.startswith("{"):
        return _SESSION.sub("", said)
    try:
        parts = orjson.loads(said)
    except orjson.JSONDecodeError:
        return said
    return f"user_{parts['device_id']}_account_{parts.get('account_uuid') or ''}" if "device_id" in parts else said

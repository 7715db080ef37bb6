"""Cache control by the request: ``Cache-Control``, ``x-gwcore-cache-ttl``, and the ``cache`` key of the body.

The body key is LiteLLM's (``{"ttl": 60, "s-maxage": 60, "no-cache": true, "no-store": true, "namespace": "x",
"use-cache": true}``) and is removed before the request is sent. Of several permissions and maximum ages, the strictest
counts; of several ``ttl``, that of the body.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from gwcore.alarm import patience
from gwcore.call import Call
from gwcore.errors import BadRequest
from gwcore.units import parse_duration

MEMBER: Final = "cache"
TTL: Final = b"x-gwcore-cache-ttl"
_CONTROL: Final = b"cache-control"
_WORDS: Final = frozenset({"ttl", "s-maxage", "no-cache", "no-store", "namespace", "use-cache"})
_LONGEST: Final = 200


@dataclass(slots=True)
class Control:
    """Cache control of one request.

    Attributes:
        read: it may be answered from the cache.
        write: its answer may be stored.
        wanted: it asks for the cache, as ``opt-in`` requires.
        only: it must be answered from the cache or not at all.
        max_age: maximum age of an answer, in seconds.
        ttl: seconds for which its own answer is fresh.
        patience: seconds that its client waits, if known.
        namespace: a part of its scope that shares no answers with the rest.
    """

    read: bool = True
    write: bool = True
    wanted: bool = False
    only: bool = False
    max_age: float | None = None
    ttl: float | None = None
    patience: float = math.inf
    namespace: str = ""


_DEFAULT: Final = Control()


def control_of(call: Call) -> Control:
    """Reads the cache control of a call, and removes its key from the body. Raises ``BadRequest``."""
    document = call.document
    member = document.get(MEMBER) if document is not None else None
    header, ttl, waits = call.header(_CONTROL), call.header(TTL), patience(call)
    if header is None and ttl is None and waits is None and not isinstance(member, dict):
        return _DEFAULT
    control = Control()
    if header is not None:
        _directives(header.decode("latin-1"), control)
    if ttl is not None:
        control.ttl = _seconds(ttl.decode("latin-1").strip(), TTL.decode())
    if waits is not None:
        control.patience = waits
    if isinstance(member, dict):
        _body(member, control)
        del call.edit()[MEMBER]
    return control


def _directives(text: str, control: Control) -> None:
    """RFC 9111 §5.2.1; unknown directives are ignored, as it requires."""
    for directive in text.split(","):
        name, _, value = directive.strip().lower().partition("=")
        if name == "no-cache":
            control.read = False
        elif name == "no-store":
            control.read = control.write = False
        elif name == "only-if-cached":
            control.only = True
        elif name == "max-age" and (seconds := value.strip('" ')).isdigit():
            control.max_age = float(seconds)


def _body(member: dict[str, Any], control: Control) -> None:
    if unknown := set(member) - _WORDS:
        known = ", ".join(sorted(_WORDS))
        raise BadRequest(f"cache.{min(unknown)[:64]} is not known; known are {known}")
    no_cache, no_store, use = (_flag(member, name) for name in ("no-cache", "no-store", "use-cache"))
    control.wanted = use is True
    control.read = control.read and not no_cache and not no_store and use is not False
    control.write = control.write and not no_store and use is not False
    if member.get("ttl") is not None:
        control.ttl = _seconds(member["ttl"], "cache.ttl")
    if member.get("s-maxage") is not None:
        age = _seconds(member["s-maxage"], "cache.s-maxage")
        control.max_age = age if control.max_age is None else min(age, control.max_age)
    control.namespace = member.get("namespace") or ""
    if not isinstance(control.namespace, str) or len(control.namespace) > _LONGEST:
        raise BadRequest(f"cache.namespace must be a text of at most {_LONGEST} characters")


def _flag(member: dict[str, Any], name: str) -> bool | None:
    value = member.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"cache.{name} must be true or false")
    return value


def _seconds(value: Any, name: str) -> float:
    try:
        return parse_duration(value)
    except ValueError:  # pydantic's error is one
        raise BadRequest(f"{name} is not a duration: write seconds, or such as 30s or 10m") from None

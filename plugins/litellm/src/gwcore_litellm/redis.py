"""URLs of Redis, which LiteLLM configures in parts."""

from __future__ import annotations

from urllib.parse import quote

from gwcore_litellm.findings import Status
from gwcore_litellm.source import Section


def redis_url(section: Section, prefix: str, said: str) -> str | None:
    """The URL from ``<prefix>url``, or from ``<prefix>host``, ``port``, ``username``, ``password``, ``db``, ``ssl``.

    ``None`` if there is neither a URL nor a host.
    """
    if (url := section.text(f"{prefix}url", said)) is not None:
        return url
    host = section.text(f"{prefix}host", said)
    if host is None:
        return None
    port = section.text(f"{prefix}port", said) or 6379
    user = section.text(f"{prefix}username", said) or ""
    password = section.text(f"{prefix}password", said)
    number = section.text(f"{prefix}db", said) or 0
    scheme = "rediss" if section.flag(f"{prefix}ssl", "rediss://") else "redis"
    login = ""
    if password is not None:
        login = f"{_part(user)}:{_part(password)}@"
        if str(password).startswith("${"):
            mend = "in the URL; should it hold one of @ : / ? # %, the variable must have it percent-encoded"
            section.say(Status.APPROXIMATE, f"{prefix}password", mend)
    return f"{scheme}://{login}{host}:{port}/{number}"


def _part(value: object) -> str:
    text = str(value)
    return text if text.startswith("${") else quote(text, safe="")

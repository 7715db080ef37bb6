"""Lists of an account's objects, filtered to those of the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import orjson

from gwcore.call import Call, Outcome
from gwcore.dialect import Document
from gwcore.errors import Malformed
from gwcore.service import Service
from gwcore_objects.ids import LISTS, id_of, parsed

Own = Callable[[Sequence[Any]], Awaitable[list[Any]]]
"""Filters a page's items to those that the caller may see."""
PAGES: Final = 50
"""Most pages read from the vendor for one page of the caller: clients take an empty page for the end."""
_USUAL: Final = 20
_LARGE: Final = 100
"""Items to request per further page, at least: a size that every vendor supports."""


def cursor(call: Call) -> str | None:
    """The id after or before which a list is requested, or ``None``."""
    said = dict(parse_qsl(call.query.decode("latin-1")))
    return said.get("after") or said.get("after_id") or said.get("before_id")


async def filtered(call: Call, inner: Service[Call], own: Own) -> Outcome:
    """Answer a list with the caller's items; pages are read until the caller's page is full or the vendor's list ends.

    Raises:
        Malformed: the upstream's answer is not a list that can be filtered.
        StoreUnavailable: the owners are unknown.
    """
    asked = call.query
    said = dict(parse_qsl(asked.decode("latin-1")))
    wanted = _USUAL
    with suppress(ValueError):
        wanted = int(said.get("limit") or said.get("pageSize") or _USUAL)
    async with call.reply.hold() as held:
        items: list[Any] = []
        for _ in range(PAGES):
            outcome = await inner(call)
            if call.served is not None:  # with several credentials, the next page needs the same one
                call.targets = (call.served.target,)
            page = parsed(b"".join(held.body))
            name = next((one for one in LISTS if isinstance(page.get(one), list)), None)
            if name is None and page and not set(page) <= {"nextPageToken"}:
                raise Malformed("the upstream's list cannot be told by whose it is")
            listed = page.get(name, []) if name else []
            items += await own(listed)
            onward = _onward(page, listed, call.dialect.name, wanted)
            if onward is None or len(items) >= wanted or "before_id" in said:
                break
            call.query = urlencode({**said, **onward}).encode()
        call.query = asked
        if "has_more" in page and len(items) > wanted > 0:  # the rest follows after the last one shown
            items, page = items[:wanted], {**page, "has_more": True}
        held.body[:] = [orjson.dumps(_page(page, name or LISTS[0], items))]
    return outcome


def _onward(page: Document, listed: Sequence[Any], dialect: str, wanted: int) -> dict[str, str] | None:
    """The query parameters for the next page; ``None`` after the last one."""
    token = page.get("nextPageToken")
    if isinstance(token, str) and token:
        return {"pageToken": token}
    last = id_of(listed[-1]) if listed else None
    if not page.get("has_more") or last is None:
        return None
    return {"after_id" if dialect.startswith("anthropic") else "after": last, "limit": str(max(wanted, _LARGE))}


def _page(page: Document, name: str, items: Sequence[Any]) -> Document:
    """The last page that was read, with the caller's items instead of its own."""
    made = {**page, name: items}
    for member, at in (("first_id", 0), ("last_id", -1)):
        if member in made:
            made[member] = id_of(items[at]) if items else None
    return made

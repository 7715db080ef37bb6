"""Who shares something with whom: one answer for all who keep what belongs to callers."""

from __future__ import annotations

from typing import Final

import orjson

from gwcore.call import Principal

OPEN: Final = "open"
_WIDER: Final = {
    # who stands for a caller that has no such id: somebody narrower, never somebody wider
    "organisation": ("organisation", "team", "user"),
    "team": ("team", "user"),
    "user": ("user",),
    "end_user": ("end_user",),
    "key": (),
}


def sharers(principal: Principal | None, scope: str) -> str:
    """Who shares what is shared by a ``scope`` (organisation, team, user, end_user or key), as a text that no other scope has.

    Made of what auth says, and of nothing in the request.
    """
    if principal is None:
        return OPEN
    for name in _WIDER[scope]:
        found = getattr(principal, name)
        if found is not None:
            return f"{name}:{found}" if name != "end_user" else f"end_user:{_tenant(principal)}:{found}"
    return f"key:{principal.id}"


def _tenant(principal: Principal) -> str:
    """Ids of end users are given by tenants: the same one means another person elsewhere."""
    return orjson.dumps([principal.organisation, principal.team, principal.user or principal.id]).decode()

"""Admin routes: state and purges. ``/cache/ping``, ``/cache/delete`` and ``/cache/flushall`` as in LiteLLM."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from gwcore.errors import BadRequest, GatewayError
from gwcore.ports import AdminCall, AdminRoute
from gwcore_cache.shelf import Shelf, ShelfDown, Wanted

READ, PURGE = "cache:read", "cache:purge"


class CachePingError(GatewayError):
    """503: the store does not answer."""

    code = "cache_ping_error"
    status = 503


class Purge(BaseModel):
    """What to purge: entries that match all given fields."""

    model_config = ConfigDict(extra="forbid")

    keys: list[str] | None = Field(default=None, description="Keys of entries, in hexadecimal.", max_length=10_000)
    model: str | None = Field(default=None, description="Requested model, as clients wrote it.")
    tag: str | None = Field(default=None, description="Tag of the calls whose answers are stored.")
    tenant: str | None = Field(
        default=None,
        description="Scope that shares the answers: `organisation:ID`, `team:ID`, `user:ID`, `key:ID`, `shared` or "
        "`open`.",
        max_length=512,
    )
    everything: bool = Field(default=False, description="`true` empties the cache; required if nothing else is given.")


class Delete(BaseModel):
    """LiteLLM's body of ``POST /cache/delete``."""

    model_config = ConfigDict(extra="forbid")

    keys: list[str] = Field(description="Keys of entries, in hexadecimal.", max_length=10_000)


class Owner(Protocol):
    """What this module uses of the plugin."""

    home: Shelf
    store: Any

    def health(self) -> dict[str, Any]:
        """Returns the plugin's health."""
        ...


def routes(owner: Owner) -> list[AdminRoute]:
    """Returns the routes of the admin API."""

    async def purge(call: AdminCall) -> Any:
        body: Purge = call.body
        wanted = Wanted(_keys(body.keys or []), body.model, body.tag, body.tenant)
        if wanted.everything and not body.everything:
            raise BadRequest("name what to purge: keys, model, tag or tenant; or everything: true")
        return {"purged": await _purge(owner, wanted)}

    async def remove(call: AdminCall) -> Any:
        gone = await _purge(owner, Wanted(_keys(call.body.keys))) if call.body.keys else 0
        return {"status": "success", "deleted": gone}

    async def flush(_call: AdminCall) -> Any:
        await _purge(owner, Wanted())
        return {"status": "success"}

    async def ping(_call: AdminCall) -> Any:
        try:
            await owner.home.get([bytes(32)], "ping")
        except ShelfDown as error:
            raise CachePingError(f"the cache's store does not answer: {error}") from None
        return {
            "status": "healthy",
            "cache_type": owner.store.scheme,
            "ping_response": True,
            "set_cache_response": "success",
        }

    async def info(_call: AdminCall) -> Any:
        return owner.health()

    return [
        AdminRoute("POST", "/cache/purge", PURGE, purge, "Forget answers by key, model, tag or tenant.", Body=Purge),
        AdminRoute("POST", "/cache/delete", PURGE, remove, "Forget answers by key.", Body=Delete),
        AdminRoute("POST", "/cache/flushall", PURGE, flush, "Forget all answers."),
        AdminRoute("GET", "/cache/ping", READ, ping, "Whether the cache's store answers."),
        AdminRoute("GET", "/cache/info", READ, info, "Counts of this worker."),
    ]


def _keys(texts: list[str]) -> tuple[bytes, ...]:
    keys = []
    for text in texts:
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise BadRequest("a key is 64 hexadecimal digits")
        keys.append(key)
    return tuple(keys)


async def _purge(owner: Owner, wanted: Wanted) -> int:
    try:
        return await owner.home.purge(wanted)
    except ShelfDown as error:
        raise CachePingError(f"the cache's store does not answer: {error}") from None

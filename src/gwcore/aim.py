"""Where a call goes: its model's name resolved to targets, once per call, behind whatever says who calls."""

from __future__ import annotations

from gwcore.call import Call, Outcome
from gwcore.errors import Untranslatable
from gwcore.models import Models
from gwcore.service import Layer, Service

TAGS, UPSTREAM = b"x-gwcore-tags", b"x-gwcore-upstream"


def aim(models: Models, call: Call) -> None:
    """Give the call its targets and tags. Raises ``UnknownModel`` and ``Untranslatable``."""
    tags = call.header(TAGS)
    if tags is not None:
        call.tags |= frozenset(tag.strip() for tag in tags.decode("latin-1").split(",")[:32])
    if call.model is not None:
        call.targets = models.resolve(call.model)
        return
    wanted = call.header(UPSTREAM)
    name, operation = call.dialect.name, call.operation
    for target in models.upstream_for(wanted.decode("latin-1") if wanted else None):
        upstream = target.upstream
        if upstream.provider.address(upstream, name, operation, "", call.params, stream=call.stream) is not None:
            call.targets = (target,)
            return
    raise Untranslatable(f"no upstream serves {operation} in the dialect {name}; set {UPSTREAM.decode()} to choose one")


def aiming(models: Models) -> Layer[Call]:
    """The layer that aims every call."""

    def layer(inner: Service[Call]) -> Service[Call]:
        async def aimed(call: Call) -> Outcome:
            aim(models, call)
            return await inner(call)

        return aimed

    return layer

"""Resolves a call's model name to targets, once per call, after authentication."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from gwcore.call import Call, Outcome, words
from gwcore.errors import Forbidden, PluginFault, UnknownModel, Untranslatable
from gwcore.models import Models
from gwcore.service import Layer, Service

TAGS, UPSTREAM = b"x-gwcore-tags", b"x-gwcore-upstream"
_THEIR_TAGS = b"x-litellm-tags"

_log = structlog.get_logger("gwcore")

Permits = Sequence[Callable[[Call, str], bool]]
"""``Plugin.visible`` of every plugin that overrides it: whether the caller may use a model. All must agree."""


def read_tags(call: Call) -> None:
    """Set the call's tags from its client's headers."""
    tags = call.header(TAGS, _THEIR_TAGS)
    if tags is not None:
        named = [tag.strip() for tag in words(tags).split(",")[:32]]
        call.tags |= frozenset(tag for tag in named if tag)


def aim(models: Models, call: Call, permits: Permits = ()) -> None:
    """Set the call's targets.

    Raises:
        UnknownModel, Untranslatable: no target serves the call.
        Forbidden: the call was redirected to a model that its client may not use.
    """
    if call.model is not None:
        if call.model != call.asked and not all(permit(call, call.model) for permit in permits):
            raise Forbidden(f"this credential may not use {call.model[:200]}")
        try:
            call.targets = models.resolve(call.model)
        except UnknownModel:
            if call.route.model != "optional":
                raise
            call.model = None  # not a model of this stack but a name of the vendor's
        else:
            return
    wanted = call.header(UPSTREAM)
    name, operation = call.dialect.name, call.operation
    for target in models.upstream_for(wanted.decode("latin-1") if wanted else None):
        upstream = target.upstream
        if upstream.provider.address(upstream, name, operation, "", call.params, stream=call.stream) is not None:
            call.targets = (target,)
            return
    raise Untranslatable(
        f"no upstream serves {operation} in the dialect {name}; send the header {UPSTREAM.decode()} to choose one"
    )


def known(name: str) -> Layer[Call]:
    """The layer after the identifying plugin: ensures that every call it lets through has a principal."""

    def layer(inner: Service[Call]) -> Service[Call]:
        def one(call: Call) -> Coroutine[Any, Any, Outcome]:
            if call.principal is None:
                _log.error("a call without a principal was let through; set call.principal, or raise", plugin=name)
                raise PluginFault(name)
            return inner(call)

        return one

    return layer


def aiming(models: Models, permits: Permits) -> Layer[Call]:
    """The layer that sets every call's targets."""

    def layer(inner: Service[Call]) -> Service[Call]:
        def aimed(call: Call) -> Coroutine[Any, Any, Outcome]:
            aim(models, call, permits)
            return inner(call)

        return aimed

    return layer

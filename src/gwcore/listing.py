"""The innermost service for model lists, which the gateway answers itself."""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Callable, Iterable
from urllib.parse import parse_qs

from gwcore.aim import Permits
from gwcore.call import Call, Outcome
from gwcore.models import Models
from gwcore.plugin import overrides
from gwcore.prices import Prices
from gwcore.provider import Target, Upstream
from gwcore.respond import models_reply
from gwcore.stack import Placed


class Listing:
    """Answers lists of models with what the caller may use, limits and prices included.

    A wildcard is listed as the models that it reaches, as far as they are known; as itself too, where a client asks so
    with LiteLLM's ``?return_wildcard_routes=true``. ``?litellm_model_id=`` leaves one deployment, ``?model_group=`` one name.
    """

    def __init__(
        self,
        models: Models,
        prices: Prices,
        catalogued: Callable[[Upstream], Iterable[str]],
        placed: tuple[Placed, ...],
        permits: Permits,
    ) -> None:
        self.models = models
        self.prices = prices
        self.catalogued = catalogued
        self.permits = permits
        self.names = [p.plugin.names for p in placed if overrides(p.plugin, "names")]
        self._reached: dict[str, tuple[Target, ...]] | None = None

    async def __call__(self, call: Call) -> Outcome:
        """Write the list, or the one that was asked for, or the 404 of its dialect."""
        if self._reached is None:  # only the first request waits for a catalogue to load
            self._reached = await asyncio.to_thread(self._look_up)
        asked = parse_qs(call.query.decode("latin-1"))
        wild = self.models.wildcards() if asked.get("return_wildcard_routes", [""])[0].lower() in _YES else {}
        more = ChainMap(*(dict(names()) for names in self.names), wild, self._reached)
        known = self.models.listing(self.prices, more)
        shown = [model for model in known if all(permit(call, model.id) for permit in self.permits)]
        if wanted := asked.get("litellm_model_id"):
            shown = [chosen for model in shown if (chosen := model.only(wanted[0])).deployments]
        if group := asked.get("model_group"):
            shown = [model for model in shown if model.id == group[0]]
        listed = call.dialect.models_body(shown, call.params.get("model"), call.operation)
        status, body = models_reply(call, listed)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await call.reply.commit(status, headers)
        await call.reply.end(body)
        return Outcome(status)

    def _look_up(self) -> dict[str, tuple[Target, ...]]:
        reached = self.models.expanded(self.catalogued)
        targets = [target for one in reached.values() for target in one]
        self.prices.warm([*self.models.targets(), *targets], self.models.upstreams.values())
        return reached


_YES = frozenset({"1", "true", "yes"})

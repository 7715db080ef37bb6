"""The innermost service of calls that ask for models: the gateway answers them itself."""

from __future__ import annotations

from collections import ChainMap

from gwcore.aim import Permits
from gwcore.call import Call, Outcome
from gwcore.models import Models
from gwcore.plugin import overrides
from gwcore.prices import Prices
from gwcore.respond import models_reply
from gwcore.stack import Placed


class Listing:
    """Answers lists of models with what the caller may use, limits and prices included."""

    def __init__(self, models: Models, prices: Prices, placed: tuple[Placed, ...], permits: Permits) -> None:
        self.models = models
        self.prices = prices
        self.permits = permits
        self.names = [p.plugin.names for p in placed if overrides(p.plugin, "names")]

    async def __call__(self, call: Call) -> Outcome:
        """Write the list, or the one that was asked for, or the 404 of its dialect."""
        if not self.prices.warmed:
            await self.models.look_up(self.prices)  # only the first one to ask waits for a catalogue
        known = self.models.listing(self.prices, ChainMap(*(dict(names()) for names in self.names)))
        shown = [model for model in known if all(permit(call, model.id) for permit in self.permits)]
        listed = call.dialect.models_body(shown, call.params.get("model"), call.operation)
        status, body = models_reply(call.dialect, listed)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await call.reply.commit(status, headers)
        await call.reply.end(body)
        return Outcome(status)

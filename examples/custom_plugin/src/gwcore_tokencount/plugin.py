"""A layer that adds a header, and a tap that counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gwcore.call import Call, Outcome
from gwcore.hookspecs import hookimpl
from gwcore.plugin import Demand, Plugin, Setup
from gwcore.service import Service


class TokenCountConfig(BaseModel):
    """Settings of ``tokencount``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    header: str = Field(default="x-counted-by", description="Name of the response header.", pattern="^[a-z0-9-]+$")
    models: int = Field(default=100, ge=1, description="How many models are counted by name.")


class TokenCount(Plugin):
    """Counts the tokens of every model; ``demand`` asks the core to read usage out of the bytes that pass."""

    name = "tokencount"
    Config = TokenCountConfig
    demand = Demand.USAGE

    def __init__(self, config: TokenCountConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self._header = config.header.encode()
        self.tokens: Counter[str] = Counter()

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Mark the response; errors are marked too."""

        async def tokencount(call: Call) -> Outcome:
            call.reply.add_header(self._header, b"tokencount")
            return await inner(call)

        return tokencount

    @hookimpl
    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Told once per call, whatever happened."""
        if outcome.usage is None or call.model is None:
            return
        # names are typed by clients: without a bound anybody could fill the memory
        known = call.model in self.tokens or len(self.tokens) < self.config.models
        self.tokens[call.model if known else "other"] += outcome.usage.total

    def health(self) -> dict[str, Any]:
        """Shown by ``GET /health``."""
        return {"tokens": dict(self.tokens)}

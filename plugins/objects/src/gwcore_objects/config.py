"""Settings of ``objects``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gwcore.units import Duration, StoreRef


class ObjectsConfig(BaseModel):
    """Settings of ``objects``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: StoreRef = Field(
        default="book",
        description="Store of the owners of ids: the name of a `sqlite:`, `postgresql:` or, for one worker, `memory:` "
        "store.",
    )
    shared_by: Literal["key", "user", "team", "organisation"] = Field(
        default="team",
        description="Who shares an object: callers of the same `key`, `user`, `team` or `organisation`. A caller "
        "without a team shares by user, one with neither by key.",
    )
    unknown: Literal["refuse", "pass"] = Field(
        default="refuse",
        description="An id that was not created through this gateway: `refuse` it with 404, or `pass` it on. With "
        "`pass`, whoever knows such an id may use it.",
    )
    responses: Duration = Field(
        default=31 * 86400.0,
        gt=0,
        description="How long the owners of stored responses are remembered; then their ids are unknown. OpenAI keeps "
        "responses for 30 days.",
    )

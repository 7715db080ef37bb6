"""Settings of ``objects``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gwcore.units import Duration, StoreRef


class ObjectsConfig(BaseModel):
    """Settings of ``objects``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: StoreRef = Field(default="book", description="where it stands whose an id is; sqlite or postgresql")
    shared_by: Literal["key", "user", "team", "organisation"] = Field(
        default="team", description="who shares what one of them made: key, user, team or organisation"
    )
    unknown: Literal["refuse", "pass"] = Field(
        default="refuse",
        description="an id that was not made through this gateway: refuse it, or pass it on for everybody",
    )
    responses: Duration = Field(
        default=31 * 86400.0,
        gt=0,
        description="how long ids of stored responses are remembered; OpenAI keeps them 30 days",
    )

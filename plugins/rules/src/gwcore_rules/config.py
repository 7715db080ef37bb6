"""Settings of ``rules``, and the format of a rule file."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gwcore.units import Duration, FileRef, Money, fault

_SPAN: Final = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d\s*-\s*(?:(?:[01]\d|2[0-3]):[0-5]\d|24:00)")
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Span = tuple[int, int]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _span(value: Any) -> Any:
    found = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise fault("is not a span of time", 'write "08:00-18:00"; "22:00-06:00" ends on the next day')
    first, last = value.split("-")
    return tuple(int(h) * 60 + int(m) for h, m in (first.strip().split(":"), last.strip().split(":")))


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise fault("is not a time zone", "write a name of the IANA database, such as UTC or Europe/Warsaw") from None
    return name


Words = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=list[str] | str)]
"""One word or several; * in a word stands for any text."""
_Span = Annotated[Span, BeforeValidator(_span, json_schema_input_type=str)]
_Spans = Annotated[list[_Span], BeforeValidator(_as_list, json_schema_input_type=list[str] | str)]


class Range(_Strict):
    """A number between two bounds."""

    over: int = Field(default=-1, ge=0, description="More tokens than this.")
    up_to: int | None = Field(default=None, ge=0, description="At most this many tokens; without it, no upper bound.")

    @model_validator(mode="after")
    def _not_empty(self) -> Range:
        if self.up_to is not None and self.up_to <= self.over:
            raise fault("is an empty range", "make up_to larger than over")
        return self

    def __str__(self) -> str:
        over = f"over {self.over}" if self.over >= 0 else ""
        up_to = f"up to {self.up_to}" if self.up_to is not None else ""
        return " and ".join(filter(None, (over, up_to))) or "any"


class Conditions(_Strict):
    """The requests to which a rule applies. Every given condition must hold; of a list, one entry must match. ``*`` is a wildcard."""

    task: Words = Field(
        default=[],
        description="Task types, which a client names in `x-gwcore-task`, in `metadata.task_type` or as the model "
        "`auto/<task>`.",
    )
    models: Words = Field(default=[], description="Names of the model, as the client wrote it.")
    operations: Words = Field(default=[], description="Operations, such as `chat` or `embeddings`.")
    dialects: Words = Field(default=[], description="Dialects (API formats) of the client, such as `openai.chat`.")
    input_tokens: Range | None = Field(
        default=None, description="Estimated input tokens, such as `{over: 8000, up_to: 100000}`."
    )
    tools: bool | None = Field(default=None, description="`true`: the request offers tools; `false`: it does not.")
    vision: bool | None = Field(
        default=None, description="`true`: the request contains an image; `false`: it does not."
    )
    stream: bool | None = Field(default=None, description="`true`: the client asks for a stream; `false`: it does not.")
    tags: Words = Field(
        default=[], description="Tags of the call: from `x-gwcore-tags`, or from its key, user, team or organisation."
    )
    keys: Words = Field(default=[], description="Ids or aliases of keys.")
    teams: Words = Field(default=[], description="Ids of teams.")
    users: Words = Field(default=[], description="Ids of users.")
    organisations: Words = Field(default=[], description="Ids of organisations.")
    hours: _Spans = Field(
        default=[], description='Times of day: `"08:00-18:00"`; `"22:00-06:00"` ends on the next day.'
    )
    days: Annotated[list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]], BeforeValidator(_as_list)] = Field(
        default=[],
        description="Days of the week, `mon` to `sun`; hours that pass midnight belong to the day on which they begin.",
    )


class Sampling(_Strict):
    """Sampling parameters for requests that do not set them. Those that the model is known to reject are left out."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature, 0 to 2.")
    max_tokens: int | None = Field(default=None, ge=1, description="Maximum number of output tokens.")
    top_p: float | None = Field(
        default=None, ge=0, le=1, description="Nucleus sampling: share of the probability mass, 0 to 1."
    )
    top_k: int | None = Field(default=None, ge=1, description="Number of the most probable tokens to sample from.")
    seed: int | None = Field(
        default=None, description="Seed for repeatable sampling, as far as the vendor supports it."
    )
    presence_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Penalty for tokens that have occurred, -2 to 2."
    )
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Penalty that grows with each occurrence of a token, -2 to 2."
    )
    stop: Words | None = Field(default=None, description="Texts at which the answer ends.")


class Rule(_Strict):
    """One rule: which requests it applies to, and the model and parameters for them."""

    name: str = Field(
        description="Name of the rule; the response header `x-gwcore-rule` shows it.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$",
    )
    when: Conditions = Field(
        default=Conditions(), description="Conditions of the rule; without them, it applies to every request."
    )
    model: Words = Field(
        default=[],
        description="Model to use; from a list, the first that the caller may use. Without it, the requested model.",
    )
    sampling: Sampling = Field(default=Sampling(), description="Sampling parameters for requests that do not set them.")
    max_cost: Money | None = Field(
        default=None,
        description="Estimated cost of one request, such as `$0.05`, above which a model of `cheaper` is used. An "
        "estimate, no budget.",
    )
    cheaper: Words = Field(
        default=[], description="Models to use instead of `model`, in order: the first whose estimated cost fits."
    )
    over: Literal["cheapest", "refuse"] = Field(
        default="cheapest",
        description="If none fits: `cheapest` of all of them, or `refuse` with 400 (`cost_cap_exceeded`).",
    )

    @model_validator(mode="after")
    def _a_cap_does_something(self) -> Rule:
        if self.cheaper and self.max_cost is None:
            raise fault("cheaper is for requests over max_cost, which is not set", "add max_cost: $0.05")
        if self.max_cost is not None and not self.cheaper and self.over == "cheapest":
            raise fault("max_cost changes nothing here", "add cheaper: [a model], or over: refuse")
        return self


def _apart(rules: list[Rule]) -> list[Rule]:
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise fault(f"rules share a name: {', '.join(twice)}", "give each a name of its own")
    return rules


_Rules = Annotated[list[Rule], AfterValidator(_apart)]


class RuleFile(_Strict):
    """A file of rules. The first that applies to a request decides."""

    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="IANA time zone of `hours` and `days`."
    )
    rules: _Rules = Field(description="The rules, in order; the first that matches decides.")


class RulesConfig(_Strict):
    """Settings of ``rules``."""

    file: FileRef | None = Field(
        default=None,
        description="YAML file with the rules, relative to the stack file; read again when it changes. An invalid "
        "edit changes nothing.",
    )
    rules: _Rules = Field(
        default=[], description="Rules written here, instead of a file; the first that matches decides."
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="IANA time zone of `hours` and `days` of rules written here; a file has its own."
    )
    reload: Annotated[Duration, Field(gt=0, le=5)] = Field(
        default=1.0,
        description="How often the file is checked. A change applies once it has been the same for two checks. At "
        "most 5s.",
    )
    prefix: str = Field(
        default="auto",
        description="Model name with which clients leave the choice to the rules: `auto`, or `auto/<task>`.",
        pattern=r"^[A-Za-z0-9_.-]+$",
    )

    @model_validator(mode="after")
    def _one_source(self) -> RulesConfig:
        if self.file is not None and self.rules:
            raise fault("has both rules and file", "keep one of them")
        return self

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

    over: int = Field(default=-1, ge=0, description="more than this")
    up_to: int | None = Field(default=None, ge=0, description="at most this")

    @model_validator(mode="after")
    def _not_empty(self) -> Range:
        if self.up_to is not None and self.up_to <= self.over:
            raise fault("no number is in this range", "let up_to be more than over")
        return self

    def __str__(self) -> str:
        over = f"over {self.over}" if self.over >= 0 else ""
        up_to = f"up to {self.up_to}" if self.up_to is not None else ""
        return " and ".join(filter(None, (over, up_to))) or "any"


class Conditions(_Strict):
    """The requests to which a rule applies. Every given condition must hold; of a list, one word must match."""

    task: Words = Field(default=[], description="task types, from x-gwcore-task, metadata.task_type or auto/<task>")
    models: Words = Field(default=[], description="the model as the client wrote it")
    operations: Words = Field(default=[], description="operations, such as chat or embeddings")
    dialects: Words = Field(default=[], description="the client's wire format")
    input_tokens: Range | None = Field(
        default=None, description="estimated tokens of input: {over: 8000, up_to: 100000}"
    )
    tools: bool | None = Field(default=None, description="whether the request offers tools")
    vision: bool | None = Field(default=None, description="whether the request shows an image")
    stream: bool | None = Field(default=None, description="whether a stream is wanted")
    tags: Words = Field(
        default=[], description="tags of the call, from x-gwcore-tags or of its key, team, organisation"
    )
    keys: Words = Field(default=[], description="ids or aliases of keys")
    teams: Words = Field(default=[], description="ids of teams")
    users: Words = Field(default=[], description="ids of users")
    organisations: Words = Field(default=[], description="ids of organisations")
    hours: _Spans = Field(default=[], description='time of day: "08:00-18:00"; "22:00-06:00" ends on the next day')
    days: Annotated[list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]], BeforeValidator(_as_list)] = Field(
        default=[], description="days of the week, on which the hours begin"
    )


class Sampling(_Strict):
    """Defaults for settings that the client does not send."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="how freely the next token is drawn")
    max_tokens: int | None = Field(default=None, ge=1, description="longest answer")
    top_p: float | None = Field(default=None, ge=0, le=1, description="share of the likeliest tokens to draw from")
    top_k: int | None = Field(default=None, ge=1, description="number of the likeliest tokens to draw from")
    seed: int | None = Field(default=None, description="makes draws repeatable, as far as the vendor can")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="against words that were said")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, description="against words said often")
    stop: Words | None = Field(default=None, description="texts that end the answer")


class Rule(_Strict):
    """One rule."""

    name: str = Field(description="told in x-gwcore-rule", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$")
    when: Conditions = Field(default=Conditions(), description="for which requests; all by default")
    model: Words = Field(
        default=[],
        description="model to use; of several, the first that the caller may use. Left out: the one asked for",
    )
    sampling: Sampling = Field(default=Sampling(), description="defaults for what the client does not say")
    max_cost: Money | None = Field(
        default=None, description="estimated cost of a request from which a cheaper model is used"
    )
    cheaper: Words = Field(default=[], description="models to use instead, in order; the first whose estimate fits")
    over: Literal["cheapest", "refuse"] = Field(
        default="cheapest", description="when none fits: the cheapest of them all, or 400"
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

    timezone: Annotated[str, AfterValidator(_zone)] = Field(default="UTC", description="of hours and days")
    rules: _Rules = Field(description="in order; the first that fits decides")


class RulesConfig(_Strict):
    """Settings of ``rules``."""

    file: FileRef | None = Field(default=None, description="file of rules, read again when it changes")
    rules: _Rules = Field(default=[], description="rules written here instead; they change with the stack file")
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="of hours and days of rules written here"
    )
    reload: Annotated[Duration, Field(gt=0, le=5)] = Field(
        default=1.0, description="how often the file is looked at; a change is taken once it has held so long"
    )
    prefix: str = Field(
        default="auto", description="model names that ask for a choice: auto, auto/<task>", pattern=r"^[A-Za-z0-9_.-]+$"
    )

    @model_validator(mode="after")
    def _one_source(self) -> RulesConfig:
        if self.file is not None and self.rules:
            raise fault("rules stand here and in a file", "keep one of the two")
        return self

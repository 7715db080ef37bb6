"""Converts ``model_list``: each deployment becomes a target of a model, at an upstream that several may share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from gwcore_litellm.costs import limited, prices
from gwcore_litellm.draft import Draft, name_of, seconds
from gwcore_litellm.findings import Status
from gwcore_litellm.names import NAMES
from gwcore_litellm.source import Config
from gwcore_litellm.tables import ABLE, BY_ITSELF, INFO, PARAMS, said_of
from gwcore_litellm.vendors import settings, upstream_name, vendor_of

_SAMPLING: Final = (
    "temperature",
    "max_tokens",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "stop",
)
_APART: Final = ("rpm", "tpm", "rpd", "tpd", "weight", "tags", "max_parallel_requests", "max_budget", "budget_duration")
"""Keys that LiteLLM applies to each deployment separately, even if several are at the same vendor."""
_WEIGHT: Final = 100
"""Weight here of the deployment with the largest weight; the others are in proportion."""
_MODES: Final = {
    "chat", "completion", "embedding", "image_generation", "audio_speech", "audio_transcription", "rerank", "responses",
    "moderation", "batch", "text_completion",
}  # fmt: skip


@dataclass(slots=True)
class Group:
    """The deployments with one ``model_name``."""

    targets: list[str] = field(default_factory=list)
    orders: list[float] = field(default_factory=list)
    sampling: list[dict[str, Any]] = field(default_factory=list)
    first_token: list[Any] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Defaults:
    """Settings in ``router_settings`` and ``litellm_settings`` for deployments that do not have their own."""

    timeout: Any = None
    shuffled: bool = True
    tags_count: bool = False


def read_models(config: Config, draft: Draft, defaults: Defaults) -> None:
    """Fill ``upstreams``, ``models`` and ``fallback.deployments``."""
    entries = config.data.get("model_list")
    groups: dict[str, Group] = {}
    if not isinstance(entries, list):
        if entries is not None:
            config.add(Status.ERROR, ("model_list",), "is not a list; begin each deployment with - model_name:")
        return
    for at in range(len(entries)):
        _Deployment(config, at, draft, defaults).read(groups)
    for name, group in groups.items():
        _group(config, draft, name, group)


class _Deployment:
    def __init__(self, config: Config, at: int, draft: Draft, defaults: Defaults) -> None:
        self._config, self._draft, self._defaults = config, draft, defaults
        self._entry = config.section("model_list", at)
        inside = self._entry.below("litellm_params")
        self._misplaced = not list(inside) and self._entry.peek("model") is not None
        self._params = self._entry if self._misplaced else inside
        self._info = self._entry.below("model_info")

    def read(self, groups: dict[str, Group]) -> None:
        name = self._entry.take("model_name", "a name in models")
        if self._misplaced:
            said = "stands beside litellm_params; indent what follows it deeper. Read as it was meant"
            self._entry.say(Status.ERROR, "litellm_params", said)
        if not isinstance(name, str) or name.count("*") > 1 or "${" in name:
            self._entry.say(Status.ERROR, "model_name", "a name is text with one * at most; the deployment is left out")
            return
        self._credential()
        if (target := self._target()) is None:
            return
        group = groups.setdefault(name, Group())
        if target in group.targets:
            self._entry.say(Status.APPROXIMATE, "litellm_params", f"the same deployment twice: {target} stands once")
            return
        group.targets.append(target)
        self._described(name, target, group)
        self._params.rest(said_of(self._params, PARAMS), NAMES, "litellm_params")
        known = {key: ABLE if self._info.peek(key) else BY_ITSELF for key in self._info if key.startswith("supports_")}
        mode = str(self._info.peek("mode"))
        known["mode"] = BY_ITSELF if mode in _MODES else (Status.UNSUPPORTED, "that mode is not served")
        self._info.rest({**INFO, **known}, NAMES, "model_info")

    def _credential(self) -> None:
        """Fill in the values of ``litellm_credential_name`` that the deployment does not set itself."""
        wanted = self._params.text("litellm_credential_name", "the values of that credential, in the upstream")
        listed = self._config.data.get("credential_list")
        for at, credential in enumerate(listed if isinstance(listed, list) and wanted else ()):
            if isinstance(credential, dict) and credential.get("credential_name") == wanted:
                values = credential.get("credential_values")
                info = credential.get("credential_info")
                kind = info.get("custom_llm_provider") if isinstance(info, dict) else None
                also = {"custom_llm_provider": str(kind).lower()} if kind else {}
                self._params.fill({**also, **values} if isinstance(values, dict) else also)
                self._config.add(Status.EXACT, ("credential_list", at), "in the upstreams that name it")
                return
        if wanted:
            self._params.say(Status.ERROR, "litellm_credential_name", "no entry of credential_list has that name")

    def _target(self) -> str | None:
        found = vendor_of(self._params)
        if found is None:
            self._unserved()
            return None
        prefix, model = found
        if not model:
            self._params.say(Status.ERROR, "model", "names no model behind the /; the deployment is left out")
            return None
        upstream, model = settings(self._params, prefix, model)
        headers = self._params.take("extra_headers", "headers of the upstream")
        if isinstance(headers, dict):
            upstream["headers"] = {**upstream.get("headers", {}), **headers}
        timeout = self._params.number("timeout", "the upstream's timeout: for its first byte")
        if (timeout := timeout or self._defaults.timeout) is not None:
            upstream["timeout"] = seconds(timeout)
        cost = prices(self._params, self._info)
        about = (cost, *(self._params.peek(key) for key in _APART))
        name = self._draft.upstream(upstream_name(prefix, upstream), upstream, model, about)
        if cost and "${" in model:
            self._params.say(
                Status.MANUAL, "model", f"its prices belong under upstreams.{name}.prices, by its name there"
            )
        elif cost:
            self._draft.upstreams[name].setdefault("prices", {}).setdefault(model, cost)
        return f"{name}/{model}"

    def _unserved(self) -> None:
        model = self._params.peek("model")
        if not isinstance(model, str):
            self._params.say(Status.ERROR, "model", "names no model; the deployment is left out")
            return
        if model.startswith("os.environ/"):
            said = "a whole reference does not tell the vendor: write ${NAME} behind the upstream, in models"
            self._params.say(Status.MANUAL, "model", f"{said}. The deployment is left out")
            return
        vendor = str(self._params.peek("custom_llm_provider") or model.partition("/")[0])
        said = f"{vendor} is no vendor that is served here" if re.fullmatch(r"[\w.-]+", vendor) else "names no vendor"
        mend = "an address that speaks OpenAI's API is an upstream with provider: openai-compatible and a base_url"
        self._params.say(Status.UNSUPPORTED, "model", f"{said}; {mend}. The deployment is left out")

    def _described(self, name: str, target: str, group: Group) -> None:
        """Convert the settings of the deployment itself, rather than of its upstream."""
        params, said = self._params, self._draft.deployments.get(target, {})
        for theirs, ours in (("rpm", "requests"), ("tpm", "tokens")):
            kept = "kept, so that more goes elsewhere; LiteLLM keeps it with enable_pre_call_checks or by usage alone"
            rate = params.number(theirs, f"fallback.deployments: {ours}; {kept}", Status.APPROXIMATE)
            if rate:
                said[ours] = f"{rate}/min"
        for theirs, ours in (("rpd", "requests"), ("tpd", "tokens")):
            rate = params.number(theirs, "the rate of the day", Status.APPROXIMATE)
            if rate and ours not in said:
                said[ours] = f"{rate}/day"
        weight = params.number("weight", "fallback.deployments: weight")
        weight = weight if weight is not None else params.peek("rpm")
        if self._defaults.shuffled and isinstance(weight, int | float) and not isinstance(weight, bool):
            group.weights[target] = weight
        tags = params.peek("tags")
        if isinstance(tags, list) and self._defaults.tags_count:
            said["tags"] = params.take("tags", "fallback.deployments: tags")
        elif tags is not None:
            params.say(
                Status.UNSUPPORTED, "tags", "spend is not counted by a deployment's tags; /spend/models knows its model"
            )
        if said:
            self._draft.deployments[target] = said
        group.orders.append(params.number("order", "the order of models, with strategy: ordered") or 0)
        group.first_token.append(params.number("stream_timeout", f"fallback.models.{name}.first_token"))
        values = {key: params.take(key, "sampling of a rule") for key in _SAMPLING if key in params}
        group.sampling.append({key: value for key, value in values.items() if value is not None})
        self._limited(name, target)

    def _limited(self, name: str, target: str) -> None:
        upstream = target.partition("/")[0]
        most = self._params.number("max_parallel_requests", "ratelimit.rules: parallel, per upstream and model")
        if most:
            limit = {
                "per": ["upstream", "model"],
                "upstreams": [upstream],
                "when": {"models": [name]},
                "parallel": most,
            }
            self._draft.limits.append(limit)
        if rule := limited(self._params, "max_budget", "budget_duration", per="model", of=target):
            self._draft.spend(rule)


def _group(config: Config, draft: Draft, name: str, group: Group) -> None:
    """Combine the settings of the deployments with one name."""
    if len(set(group.orders)) > 1:
        pairs = sorted(zip(group.orders, range(len(group.targets)), strict=True))
        group.targets = [group.targets[at] for _, at in pairs]
        draft.routes.setdefault(name, {})["strategy"] = "ordered"
    draft.models[name] = group.targets
    for target in group.targets if len(group.targets) > 1 and any(group.weights.values()) else ():
        # LiteLLM never chooses a deployment without a weight if another has one; here, too, 0 means fallback only
        share = round(group.weights.get(target, 0) * _WEIGHT / max(group.weights.values()))
        draft.deployments.setdefault(target, {})["weight"] = share
    waits = [wait for wait in group.first_token if wait is not None]
    if waits:
        draft.routes.setdefault(name, {})["first_token"] = seconds(waits[0])
    if len(set(map(str, waits))) > 1:
        said = f"the deployments of {name} have different stream_timeouts; that of the first that has one holds for all"
        config.add(Status.APPROXIMATE, ("model_list",), said)
    samplings = [sampling for sampling in group.sampling if sampling]
    if samplings:
        draft.sampling.append({"name": name_of(name)[:60], "when": {"models": [name]}, "sampling": samplings[0]})
    if any(sampling != group.sampling[0] for sampling in group.sampling):
        said = f"the deployments of {name} have different defaults; a rule holds for a name: those of the first that has any"
        config.add(Status.APPROXIMATE, ("model_list",), said)

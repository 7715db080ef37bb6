"""Converts ``router_settings`` and its keys in ``litellm_settings``: choice of deployments, retries and fallbacks."""

from __future__ import annotations

from typing import Any, Final

from gwcore_litellm.costs import dollars
from gwcore_litellm.deployments import Defaults
from gwcore_litellm.draft import Draft, seconds
from gwcore_litellm.findings import Status
from gwcore_litellm.names import NAMES
from gwcore_litellm.redis import redis_url
from gwcore_litellm.source import Config, Section
from gwcore_litellm.tables import ROUTER, said_of

_STRATEGIES: Final = {
    "simple-shuffle": ("shuffle", Status.EXACT),
    "least-busy": ("least-busy", Status.EXACT),
    "latency-based-routing": ("fastest", Status.APPROXIMATE),
    "cost-based-routing": ("cheapest", Status.EXACT),
    "usage-based-routing-v2": ("usage", Status.EXACT),
    "usage-based-routing": ("usage", Status.APPROXIMATE),
}
_CHAINS: Final = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_AFFINITY: Final = {
    "prompt_caching": "prefix",
    "deployment_affinity": "session",
    "session_affinity": "session",
    "responses_api_deployment_check": "session",
    "encrypted_content_affinity": "session",
}
_RETRIES, _FAILS, _COOLDOWN, _MOST, _LONGEST = 2, 3, 5, 20, 300
"""LiteLLM's defaults; the maximum attempts of ``fallback`` for one call, and its default ``max_cooldown``."""
_TIMEOUT: Final = "timeout of the upstreams, where a deployment has none"


def read_defaults(config: Config) -> Defaults:
    """The defaults for deployments; call it before ``model_list`` is read."""
    router, settings = config.data.get("router_settings"), config.data.get("litellm_settings")
    router, settings = router if isinstance(router, dict) else {}, settings if isinstance(settings, dict) else {}
    strategy = router.get("routing_strategy") or "simple-shuffle"
    sections = (("router_settings", router, "timeout"), ("litellm_settings", settings, "request_timeout"))
    waits = [config.section(name).number(key, _TIMEOUT) for name, there, key in sections if key in there]
    timeout = next((wait for wait in waits if wait), None)
    tags = str(router.get("enable_tag_filtering")).lower() == "true"
    return Defaults(timeout=timeout, shuffled=strategy == "simple-shuffle", tags_count=tags)


class Router:
    """Fills ``fallback`` and the aliases in ``models`` from both sections."""

    def __init__(self, config: Config, draft: Draft) -> None:
        self._config, self._draft = config, draft
        self._router = config.section("router_settings")
        self._redirected: dict[str, str] = {}

    def read(self, settings: Section) -> None:
        """Convert all of ``router_settings``, and its keys in ``litellm_settings``."""
        router, fallback = self._router, self._draft.fallback
        self._strategy()
        self._aliases()
        for section in (router, settings):
            for kind in _CHAINS:
                self._chains(section, kind)
            self._default_fallbacks(section)
        fails = settings.number("allowed_fails", "fallback.allowed_fails: failures in a row", Status.APPROXIMATE)
        mine = router.number("allowed_fails", "fallback.allowed_fails: failures in a row", Status.APPROXIMATE)
        fails = mine if mine is not None else fails
        fallback["allowed_fails"] = max(1, int(fails)) if isinstance(fails, int | float) else _FAILS
        self._cooldown(settings)
        wait = router.number("stream_timeout", "fallback.first_token")
        if wait:
            fallback["first_token"] = seconds(wait)
        router.number("timeout", _TIMEOUT)
        router.flag("enable_tag_filtering", "tags of deployments are always kept")
        self._attempts(settings)
        self._checks()
        self._budgets()
        self._store()
        for name, target in self._redirected.items():
            routes = self._draft.routes
            if target in routes or name in routes:
                routes[name] = {**routes.get(target, {}), **routes.get(name, {})}
        router.rest(said_of(router, ROUTER), NAMES, "router_settings")

    def _strategy(self) -> None:
        said = self._router.peek("routing_strategy")
        if said is None:
            self._draft.fallback["strategy"] = "shuffle"  # LiteLLM's default
        elif str(said) in _STRATEGIES:
            ours, status = _STRATEGIES[str(said)]
            self._router.say(status, "routing_strategy", f"fallback.strategy: {ours}")
            self._draft.fallback["strategy"] = ours
        elif said == "provider-budget-routing":
            self._draft.fallback.update(strategy="shuffle", budget_aware=True)
            self._router.say(
                Status.APPROXIMATE, "routing_strategy", "budget_aware: true, with rules of budget per upstream"
            )
        else:
            self._draft.fallback["strategy"] = "shuffle"
            self._router.say(
                Status.ERROR, "routing_strategy", f"one of: {', '.join(_STRATEGIES)}; read as simple-shuffle"
            )

    def _aliases(self) -> None:
        aliases = self._router.below("model_group_alias")
        models = dict(self._draft.models)
        for name in aliases:
            meant = aliases.peek(name)
            if isinstance(meant, dict):
                if meant.get("hidden"):
                    self._config.add(Status.APPROXIMATE, (*aliases.loc, name, "hidden"), "it is listed like any model")
                meant = meant.get("model")
            if not isinstance(meant, str):
                aliases.say(Status.ERROR, name, "is not the name of one model_name; `models` takes a list of targets")
            elif (targets := self._targets(meant, models)) is None:
                aliases.say(Status.ERROR, name, "no deployment has that model_name; the alias is left out")
            else:
                aliases.say(Status.EXACT, name, "another name in models")
                if name in models:
                    said = (
                        "LiteLLM asks the alias, and the deployments that have this model_name never; so does the stack"
                    )
                    aliases.say(Status.ERROR, name, said)
                self._draft.models[name] = targets
                self._redirected[name] = meant
                for rule in self._draft.sampling:
                    if meant in rule["when"]["models"]:
                        rule["when"]["models"].append(name)

    # ── fallbacks ────────────────────────────────────────────────────────────────────────────────────────────────

    def _chains(self, section: Section, kind: str) -> None:
        listed = section.peek(kind)
        if listed is None:
            return
        section.say(Status.EXACT, kind, f"fallback.models.<name>.{kind}")
        if isinstance(listed, dict):
            section.say(Status.ERROR, kind, "is not a list; LiteLLM wants - {model: [models]}. Read as it was meant")
            listed = [listed]
        for at, entry in enumerate(listed if isinstance(listed, list) else ()):
            if not isinstance(entry, dict):
                self._config.add(Status.ERROR, (*section.loc, kind, at), "is not {model: [models]}; left out")
                continue
            for name, targets in entry.items():
                self._chain((*section.loc, kind, at, name), name, targets, kind)

    def _chain(self, loc: tuple[str | int, ...], name: str, targets: Any, kind: str) -> None:
        names = self._there(loc, [targets] if isinstance(targets, str) else targets, name)
        if not names:
            return
        if name == "*":
            if kind == "fallbacks":
                self._draft.fallback["default_fallbacks"] = names
            else:
                self._draft.fallback[kind] = names
        elif self._served(name) or "*" in name:
            self._draft.routes.setdefault(name, {}).setdefault(kind, names)
        else:
            self._config.add(
                Status.ERROR, loc, "no deployment has that model_name, so nothing ever falls back; left out"
            )

    def _there(self, loc: tuple[str | int, ...], targets: Any, name: str) -> list[str]:
        found: list[str] = []
        for target in targets if isinstance(targets, list) else ():
            if isinstance(target, dict):
                self._config.add(
                    Status.MANUAL, loc, "a fallback with parameters: name a model in `models`, and a rule for it"
                )
            elif target == name:
                said = "falls back to itself; the other deployments of a name are tried by themselves. Left out"
                self._config.add(Status.ERROR, loc, said)
            elif not isinstance(target, str) or not self._served(target):
                self._config.add(Status.ERROR, loc, "no deployment has the model_name that it falls back to; left out")
            else:
                found.append(target)
        return found

    def _served(self, name: str) -> bool:
        return self._targets(name, self._draft.models) is not None

    @staticmethod
    def _targets(name: str, models: dict[str, list[str]]) -> list[str] | None:
        """The targets of a name; if several names with a * match, those of the longest."""
        if name in models:
            return models[name]
        for model in sorted((model for model in models if "*" in model), key=len, reverse=True):
            before, after = model.split("*")
            if len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after):
                return [target.replace("*", name[len(before) : len(name) - len(after)]) for target in models[model]]
        return None

    def _default_fallbacks(self, section: Section) -> None:
        listed = section.take("default_fallbacks", "fallback.default_fallbacks")
        if listed is not None:
            names = self._there(
                (*section.loc, "default_fallbacks"), [listed] if isinstance(listed, str) else listed, ""
            )
            if names:
                self._draft.fallback["default_fallbacks"] = names

    def _cooldown(self, settings: Section) -> None:
        said = "fallback.cooldown, doubled while it goes on failing"
        theirs = settings.number("cooldown_time", said, Status.APPROXIMATE)
        mine = self._router.number("cooldown_time", said, Status.APPROXIMATE)
        wait = theirs if mine is None else mine
        if wait == 0:
            key = self._router if mine == 0 else settings
            key.say(Status.ERROR, "cooldown_time", f"LiteLLM reads 0 as its default, {_COOLDOWN} s; so does the stack")
        self._draft.fallback["cooldown"] = seconds(wait or _COOLDOWN)
        if isinstance(wait, int | float) and wait > _LONGEST:
            self._draft.fallback["max_cooldown"] = f"{wait}s"

    def _attempts(self, settings: Section) -> None:
        said = "fallback.retry: all attempts of a call, fallbacks included"
        first, second = settings.number("num_retries", said), self._router.number("num_retries", said)
        wanted = second if second is not None else first
        again = int(wanted) if isinstance(wanted, int | float) else _RETRIES
        routes = self._draft.routes.values()
        chains = [route.get(kind, ()) for route in routes for kind in _CHAINS]
        longest = max([len(chain) for chain in (*chains, self._draft.fallback.get("default_fallbacks", ()))], default=0)
        attempts = min(_MOST, (again + 1) * (1 + longest))
        self._draft.fallback["retry"] = {"attempts": attempts, "per_target": min(10, again)}

    # ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _checks(self) -> None:
        listed = self._router.peek("optional_pre_call_checks")
        for word in listed if isinstance(listed, list) else ():
            if (word := str(word)) in _AFFINITY:
                self._draft.fallback["affinity"] = _AFFINITY[word]
                self._router.say(Status.APPROXIMATE, "optional_pre_call_checks", f"affinity: {_AFFINITY[word]}")
            else:
                self._router.say(Status.MANUAL, "optional_pre_call_checks", f"nothing follows from {word} by itself")

    def _budgets(self) -> None:
        budgets = self._router.below("provider_budget_config")
        for vendor in budgets:
            one = budgets.below(vendor)
            limit = one.number("budget_limit", "budget.rules: per upstream")
            limit = limit if limit is not None else one.number("max_budget", "budget.rules: per upstream")
            window = one.text("time_period", "the window") or one.text("budget_duration", "the window") or "total"
            ours = [name for name, up in self._draft.upstreams.items() if up["provider"] == vendor or name == vendor]
            if not ours or limit is None:
                budgets.say(Status.ERROR, vendor, "no deployment is at that vendor, or no limit is given; left out")
                continue
            for name in ours:
                self._draft.spend({"per": "upstream", "of": name, "limit": dollars(limit), "window": window})
            if len(ours) > 1:
                budgets.say(Status.APPROXIMATE, vendor, f"each of {', '.join(ours)} has the whole limit: share it out")

    def _store(self) -> None:
        url = redis_url(
            self._router, "redis_", "the store `hot`: replicas share limits and what they know of deployments"
        )
        if url is not None:
            name = self._draft.store("hot", url)
            self._draft.fallback["store"] = name
            self._draft.shared = name

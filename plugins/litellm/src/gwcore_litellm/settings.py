"""Converts ``litellm_settings``, ``general_settings`` and the sections beside them."""

from __future__ import annotations

from typing import Any, Final

from gwcore_litellm.costs import limited
from gwcore_litellm.draft import Draft, seconds
from gwcore_litellm.findings import Status
from gwcore_litellm.names import NAMES
from gwcore_litellm.redis import redis_url
from gwcore_litellm.source import Config, Section
from gwcore_litellm.tables import GENERAL, LITELLM, SECTIONS, said_of
from gwcore_litellm.watchers import read_alerts

_OPERATIONS: Final = {
    "completion": "chat", "acompletion": "chat", "text_completion": "completions", "atext_completion": "completions",
    "embedding": "embeddings", "aembedding": "embeddings", "rerank": "rerank", "arerank": "rerank",
    "responses": "chat", "aresponses": "chat", "anthropic_messages": "chat",
}  # fmt: skip
_BUDGETS: Final = (
    ("global", "max_budget", "budget_duration"),
    ("end_user", "max_end_user_budget", None),
    ("user", "max_internal_user_budget", "internal_user_budget_duration"),
)
"""Scope of a budget, the key of its limit, and the key of its window."""
_REDIS: Final = "redis://:${REDIS_PASSWORD:-}@${REDIS_HOST}:${REDIS_PORT:-6379}/0"
"""Where LiteLLM connects if the file has no address."""
_SQL: Final = ("postgresql://", "postgres://", "sqlite:", "${")


def read_litellm(config: Config, draft: Draft, settings: Section) -> None:
    """Convert the keys of ``litellm_settings`` that the router and the callbacks have not read."""
    settings.number("request_timeout", "timeout of the upstreams, where a deployment has none")
    for per, limit, window in _BUDGETS:
        if rule := limited(settings, limit, window, per=per):
            draft.spend(rule)
    _tags(draft, settings.below("tag_budget_config"))
    _aliases(draft, settings.below("model_alias_map"))
    status = settings.peek("budget_exceeded_status_code")
    if status is not None:
        settings.say(Status.APPROXIMATE, "budget_exceeded_status_code", "budget.status: 429, or 402")
    _cache(config, draft, settings)
    settings.rest(said_of(settings, LITELLM), NAMES, "litellm_settings")


def _tags(draft: Draft, tags: Section) -> None:
    for tag in tags:
        if rule := limited(tags.below(tag), "max_budget", "budget_duration", per="tag", of=tag):
            draft.spend(rule)


def _aliases(draft: Draft, aliases: Section) -> None:
    for name in aliases:
        meant = aliases.peek(name)
        if isinstance(meant, str) and meant in draft.models and name not in draft.models:
            draft.models[name] = draft.models[meant]
            aliases.say(Status.EXACT, name, "another name in models")
        else:
            aliases.say(Status.MANUAL, name, "name it in `models`, as upstream/model")


def _cache(config: Config, draft: Draft, settings: Section) -> None:
    params = settings.below("cache_params")
    if not settings.flag("cache", "the cache plugin"):
        if settings.peek("cache_params") is not None:
            settings.say(Status.APPROXIMATE, "cache_params", "without effect while `cache` is not true")
        return
    made: dict[str, Any] = {}
    kind = params.peek("type") or "local"
    url = None
    if "redis" in str(kind) or "valkey" in str(kind):
        url = redis_url(params, "", "cache.store") or _REDIS
        params.say(Status.EXACT if kind == "redis" else Status.APPROXIMATE, "type", "a redis store")
    elif kind == "disk":
        url = "sqlite:///gwcore-cache.db"
        params.take("disk_cache_dir", "a SQLite file in the working directory", Status.APPROXIMATE)
        params.say(Status.APPROXIMATE, "type", "a SQLite store")
    elif kind != "local":
        params.say(Status.UNSUPPORTED, "type", "in memory instead; stores are memory, redis, sqlite and postgresql")
    else:
        params.say(Status.EXACT, "type", "in memory")
    if url is not None:
        made["store"] = draft.store("hot", url)
    ttl = params.number("ttl", "cache.ttl")
    by_kind = params.number("default_in_redis_ttl" if url else "default_in_memory_ttl", "cache.ttl")
    if ttl or by_kind:
        made["ttl"] = seconds(ttl or by_kind)
    name = params.text("namespace", "cache.namespace")
    if name:
        made["namespace"] = name
    if params.take("mode", "cache.mode") == "default_off":
        made["mode"] = "opt-in"
    _operations(params, made)
    _semantic(params, made, str(kind))
    params.rest(_CACHE, NAMES, "cache_params")
    config.add(Status.APPROXIMATE, (*settings.loc, "cache"), "answers are shared within an organisation, team or user; "
               "`scope: shared` shares them among all, as LiteLLM does")  # fmt: skip
    draft.cache = made


_CACHE: Final = dict.fromkeys(
    ("max_connections", "redis_flush_size", "socket_timeout", "default_in_memory_ttl", "default_in_redis_ttl"),
    (Status.EXACT, "nothing is needed for it"),
) | dict.fromkeys(
    ("redis_startup_nodes", "startup_nodes", "service_name", "sentinel_nodes", "sentinel_password"),
    (Status.UNSUPPORTED, "a store is one Redis address; put a proxy before a cluster"),
)


def _operations(params: Section, made: dict[str, Any]) -> None:
    listed = params.peek("supported_call_types")
    if listed is None:
        return
    words = [str(word) for word in listed] if isinstance(listed, list) else [str(listed)]
    kept = list(dict.fromkeys(_OPERATIONS[word] for word in words if word in _OPERATIONS))
    lost = [word for word in words if word not in _OPERATIONS]
    said = "cache.operations" + (f"; not cached here: {', '.join(lost)}" if lost else "")
    params.say(Status.APPROXIMATE if lost else Status.EXACT, "supported_call_types", said)
    if kept:
        made["operations"] = kept


def _semantic(params: Section, made: dict[str, Any], kind: str) -> None:
    if "semantic" not in kind:
        return
    model = params.text("redis_semantic_cache_embedding_model", "cache.semantic.model") or params.text(
        "qdrant_semantic_cache_embedding_model", "cache.semantic.model"
    )
    likeness = params.number("similarity_threshold", "cache.semantic.similarity", Status.APPROXIMATE)
    if model is None:
        params.say(Status.MANUAL, "type", "cache.semantic.model: name the embedding model")
        return
    made["semantic"] = {"model": model}
    if isinstance(likeness, int | float) and 0.8 <= likeness <= 1:
        made["semantic"]["similarity"] = likeness


# ── general_settings ─────────────────────────────────────────────────────────────────────────────────────────────────


def read_general(config: Config, draft: Draft, general: Section) -> None:
    """Convert the server's settings; with a ``master_key``, also ``auth``."""
    _keys(config, draft, general)
    read_alerts(config, draft, general)
    most = general.number("max_request_size_mb", "server.max_body")
    if most:
        draft.server["max_body"] = f"{most}MB"
    most = general.number("max_in_flight_requests_per_worker", "server.max_inflight")
    if most:
        draft.server["max_inflight"] = most
    most = general.number("global_max_parallel_requests", "ratelimit.rules: parallel, per global")
    if most:
        draft.limits.append({"per": "global", "parallel": most})
    most = general.number("max_parallel_requests", "ratelimit.rules: parallel, per key", Status.APPROXIMATE)
    if most:
        draft.limits.append({"per": "key", "parallel": most})
    if general.flag("background_health_checks", "fallback.checks"):
        every = general.number("health_check_interval", "fallback.checks.interval")
        draft.fallback["checks"] = {"interval": seconds(every)} if every else {}
    keep = general.text("maximum_spend_logs_retention_period", "budget.retain")
    if keep is not None and draft.budget is not None:
        draft.budget["retain"] = keep
    general.rest(said_of(general, GENERAL), NAMES, "general_settings")


def _keys(config: Config, draft: Draft, general: Section) -> None:
    key = general.peek("master_key")
    url = general.text("database_url", "the store `book`, for keys and money", Status.APPROXIMATE)
    if url is not None and str(url).startswith(_SQL):
        draft.stores["book"] = str(url)
        said = "the store `book`; give gwcore a database of its own there, and leave Prisma's options (?schema=…) out"
        if str(url).startswith("postgres://"):
            draft.stores["book"] = "postgresql://" + str(url).removeprefix("postgres://")
        if str(url).startswith("sqlite"):
            said = "LiteLLM serves PostgreSQL alone; here it is the store `book`, and serves the workers of one machine"
        general.say(Status.ERROR if str(url).startswith("sqlite") else Status.APPROXIMATE, "database_url", said)
    elif url is not None:
        general.say(Status.ERROR, "database_url", "is not the URL of PostgreSQL; `book` is a SQLite file meanwhile")
    if key is None:
        config.add(Status.MANUAL, ("general_settings",), "without a master_key, and without LITELLM_MASTER_KEY in its environment, "
                   "LiteLLM lets everybody in; this stack does, too, and so listens on this machine only (server.host). With one, "
                   "put first into stack: - auth: {admin_key: '${LITELLM_MASTER_KEY}'}, and budget last")  # fmt: skip
        return
    reference = isinstance(key, str) and key.startswith("os.environ/")
    admin = general.text("master_key", "auth.admin_key; it needs 32 random characters: openssl rand -hex 32")
    if not reference:
        admin = "${GWCORE_ADMIN_KEY}"
        said = "auth.admin_key is ${GWCORE_ADMIN_KEY}: set it, to 32 random characters at least (openssl rand -hex 32)"
        general.say(Status.MANUAL, "master_key", said)
    draft.auth = {"admin_key": admin}
    header = general.text("user_header_name", "auth.end_user_header")
    if header is not None:
        draft.auth["end_user_header"] = header
    draft.server["host"] = "0.0.0.0"  # noqa: S104 - as LiteLLM listens; auth is in the stack
    if draft.budget is None:
        draft.budget = {}


def read_sections(config: Config) -> None:
    """Report ``environment_variables``, and the sections that are not converted."""
    top = Section(config, (), {key: value for key, value in config.data.items() if key not in _READ})
    variables = config.data.get("environment_variables")
    for name, value in variables.items() if isinstance(variables, dict) else ():
        loc = ("environment_variables", name)
        if value == f"os.environ/{name}":
            config.add(Status.ERROR, loc, "is itself: the process has it already. Left out")
        else:
            config.add(Status.MANUAL, loc, "set it in the environment of the process")
    top.rest(SECTIONS, NAMES, "the top of the file")


_READ: Final = (
    "model_list",
    "router_settings",
    "litellm_settings",
    "general_settings",
    "credential_list",
    "environment_variables",
)

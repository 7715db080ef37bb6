"""Findings for keys that have no counterpart of their own in a stack file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gwcore_litellm.findings import Status
from gwcore_litellm.source import Section

Said = tuple[Status, str]

_LOGS: Final[Said] = (Status.EXACT, "logs are JSON lines without prompts or keys; nothing is needed")
_NOTHING: Final[Said] = (Status.EXACT, "nothing is needed for it")
_GUARD: Final[Said] = (Status.MANUAL, "guardrails are plugins of your own: docs/guide/write-a-layer.md")
_NO_UI: Final[Said] = (Status.UNSUPPORTED, "there is no web interface")
_FILE_ONLY: Final[Said] = (
    Status.UNSUPPORTED,
    "the stack file is the only place of models and settings; SIGHUP reads it again",
)
_KEYS: Final[Said] = (Status.MANUAL, "a rule `per: key` of ratelimit is every key's default, one of budget its ceiling")

_KNOB: Final[Said] = (Status.MANUAL, "defaults of requests are the `sampling` of a rule; this one clients must send")
BY_ITSELF: Final[Said] = (Status.EXACT, "so by itself")
ABLE: Final[Said] = (Status.APPROXIMATE, "calls need it not; lists tell it once prices.capabilities of the model does")

PARAMS: Final[dict[str, Said]] = {
    "drop_params": (Status.EXACT, "always: what the target lacks is left out, and named in x-gwcore-dropped"),
    "additional_drop_params": (Status.MANUAL, "what a target refuses is known per vendor; a plugin may take out more"),
    "max_retries": (Status.EXACT, "upstreams are asked once; fallback.retry says how often a call is tried"),
    "num_retries": (Status.APPROXIMATE, "fallback.retry.attempts holds for all models"),
    "cooldown_time": (Status.APPROXIMATE, "fallback.cooldown holds for all deployments"),
    "use_in_pass_through": (Status.EXACT, "native routes of the vendor's dialect are served by themselves"),
    "merge_reasoning_content_in_choices": (Status.UNSUPPORTED, "reasoning stays apart, as the dialect has it"),
    "silent_model": (Status.UNSUPPORTED, "nothing here sends a copy of a call elsewhere"),
    "mock_response": (Status.MANUAL, "an upstream with `provider: demo` answers without a vendor"),
    "fallbacks": (Status.MANUAL, "fallback.models.<name>.fallbacks"),
    "region_name": (Status.UNSUPPORTED, "deployments are not chosen by region"),
    "tag_regex": (Status.MANUAL, "tags are matched as they are; a rule may choose models by more"),
    "itpm": (Status.MANUAL, "ratelimit.rules: {per: [upstream, model], tokens: …, count: input}"),
    "otpm": (Status.MANUAL, "ratelimit.rules: {per: [upstream, model], tokens: …, count: output}"),
    "configurable_clientside_auth_params": (Status.UNSUPPORTED, "clients never choose an upstream's address or key"),
    "cache_control_injection_points": (Status.UNSUPPORTED, "prompt caching is what the client asks for"),
    "headers": (Status.MANUAL, "headers of the upstream"),
    "extra_body": (Status.MANUAL, "clients send it, or a plugin puts it in"),
    "default_api_key_rpm_limit": (Status.MANUAL, "ratelimit.rules: {per: [key, model], requests: …}"),
    "default_api_key_tpm_limit": (Status.MANUAL, "ratelimit.rules: {per: [key, model], tokens: …}"),
    "vertex_ai_project": (Status.ERROR, "LiteLLM's key is vertex_project"),
    "vertex_ai_location": (Status.ERROR, "LiteLLM's key is vertex_location"),
    "aws_region": (Status.ERROR, "LiteLLM's key is aws_region_name"),
    "stream": (Status.EXACT, "clients say whether they want a stream"),
    "keepalive_seconds": (Status.MANUAL, "server.keepalive holds for all streams"),
    "num_ctx": (Status.MANUAL, "num_ctx of the upstream, where its provider is ollama"),
    "keep_alive": (Status.MANUAL, "keep_alive of the upstream, where its provider is ollama"),
    "azure_scope": (Status.UNSUPPORTED, "Entra ID is not asked for tokens here"),
    **dict.fromkeys(("aws_session_name", "aws_web_identity_token", "aws_external_id", "aws_sts_endpoint"),
                    (Status.MANUAL, "put it into a profile of AWS's config file, and name that: profile")),
    **dict.fromkeys(("n", "logit_bias", "logprobs", "top_logprobs", "response_format", "reasoning_effort", "thinking",
                     "verbosity", "tools", "tool_choice", "parallel_tool_calls", "user", "service_tier", "store",
                     "dimensions", "encoding_format", "input_type", "max_completion_tokens", "metadata", "min_p",
                     "web_search_options", "safety_settings", "repeat_penalty", "think", "chat_template_kwargs",
                     "stream_options", "modalities", "allowed_openai_params"), _KNOB),
}  # fmt: skip
INFO: Final[dict[str, Said]] = {
    "id": (Status.EXACT, "a deployment is upstream/model"),
    "access_groups": (Status.MANUAL, "write the models into `models` of the keys and teams that have the group"),
    "team_id": (Status.MANUAL, "write the model into `models` of that team, and of no other"),
    "team_public_model_name": (Status.MANUAL, "`aliases` of a key give a model another name"),
    "blocked": (Status.MANUAL, "take the model out of `models`"),
    "discoverable": (Status.UNSUPPORTED, "every model that a key may use is listed"),
    "max_tokens": (Status.APPROXIMATE, "max_output_tokens is prices.max_output; this one says nothing more"),
    "disable_background_health_check": (Status.MANUAL, "fallback.checks.upstreams names those that are checked"),
    **dict.fromkeys(
        ("description", "litellm_provider", "key", "db_model", "created_at", "created_by", "updated_at", "updated_by"),
        _NOTHING,
    ),
}

ROUTER: Final[dict[str, Said]] = {
    "set_verbose": (Status.EXACT, "logs are JSON lines; nothing is needed"),
    "debug_level": (Status.EXACT, "logs are JSON lines; nothing is needed"),
    "retry_after": (Status.APPROXIMATE, "fallback.retry.base; an upstream's Retry-After is kept"),
    "retry_policy": (Status.MANUAL, "not set by kind of error: docs/reference/faults.md says what follows which"),
    "model_group_retry_policy": (Status.MANUAL, "not set by kind of error or model"),
    "allowed_fails_policy": (Status.MANUAL, "not set by kind of error: docs/reference/faults.md says what counts"),
    "disable_cooldowns": (
        Status.UNSUPPORTED,
        "a deployment that fails is left alone; with `panic` one is always tried",
    ),
    "enable_pre_call_checks": (Status.APPROXIMATE, "context_window_fallbacks act on the vendor's refusal"),
    "tag_filtering_match_any": (Status.EXACT, "one common tag is enough"),
    "max_fallbacks": (Status.APPROXIMATE, "fallback.retry.attempts bounds all attempts of a call"),
    "cache_responses": (Status.APPROXIMATE, "the cache plugin, where litellm_settings.cache asks for it"),
    "enable_health_check_routing": (
        Status.MANUAL,
        "fallback.checks: deployments are checked, and left alone while down",
    ),
    "enable_mid_stream_fallback_continuation": (Status.MANUAL, "fallback.continuation: true"),
    "default_max_parallel_requests": (Status.MANUAL, "ratelimit.rules: {per: [upstream, model], parallel: …}"),
    "ignore_invalid_deployments": (
        Status.UNSUPPORTED,
        "what is wrong in the stack file is told before anything starts",
    ),
    "fallback_on_unsupported_params": (
        Status.EXACT,
        "what a target lacks is left out; content it cannot be told goes on",
    ),
    "alerting_config": (Status.MANUAL, "watch: alerts"),
    "routing_strategy_args": (Status.UNSUPPORTED, "the strategies need no numbers"),
    "client_ttl": (Status.EXACT, "connections are kept by themselves"),
    "default_litellm_params": (Status.MANUAL, "defaults of requests are the `sampling` of a rule"),
    "caching_groups": (Status.UNSUPPORTED, "an answer is cached under the model that was asked"),
    "model_group_affinity_config": (Status.MANUAL, "fallback.models.<name>.affinity"),
    "deployment_affinity_ttl_seconds": (Status.EXACT, "affinity needs no memory, and so no end"),
    "polling_interval": (Status.UNSUPPORTED, "there are no priorities among calls that queue"),
    "default_priority": (Status.UNSUPPORTED, "there are no priorities among calls that queue"),
}

LITELLM: Final[dict[str, Said]] = {
    "drop_params": (Status.EXACT, "always: what the target lacks is left out, and named in x-gwcore-dropped"),
    "modify_params": (Status.EXACT, "requests are fitted to the target where they can be, and refused by name where not"),
    **dict.fromkeys(("set_verbose", "json_logs", "suppress_debug_info", "log_raw_request_response", "litellm_mode"), _LOGS),
    **dict.fromkeys(
        ("telemetry", "use_aiohttp_transport", "disable_aiohttp_transport", "aiohttp_trust_env", "force_ipv4", "safe_memory_mode",
         "disable_streaming_logging", "caching", "return_response_headers", "filter_invalid_headers", "use_client",
         "disable_add_user_agent_to_request_tags", "disable_hf_tokenizer_download", "disable_token_counter",
         "force_redis_hash_tag_grouping", "user_url_validation", "include_cost_in_streaming_usage"),
        _NOTHING,
    ),
    "redact_user_api_key_info": (Status.EXACT, "keys are never told; `hash_users` of a sink hides users"),
    "redact_messages_in_exceptions": (Status.EXACT, "errors never hold prompts"),
    "require_auth_for_metrics_endpoint": (Status.EXACT, "GET /metrics takes the admin key; prometheus.port serves it without"),
    "ssl_verify": (Status.MANUAL, "upstreams.<name>.tls.ca_file; certificates are always verified"),
    "ssl_certificate": (Status.UNSUPPORTED, "client certificates: put a proxy between"),
    "enable_json_schema_validation": (Status.UNSUPPORTED, "answers pass as they are"),
    "num_retries_per_request": (Status.MANUAL, "fallback.retry.per_target"),
    "max_fallbacks": (Status.APPROXIMATE, "fallback.retry.attempts bounds all attempts of a call"),
    "langfuse_default_tags": (Status.UNSUPPORTED, "tags of a call go to Langfuse as they are"),
    "forward_traceparent_to_llm_provider": (Status.EXACT, "otel.propagate, which is on"),
    "store_audit_logs": (Status.MANUAL, "watch: request_log keeps calls; changes by the admin API are in the log"),
    "extra_spend_tag_headers": (Status.MANUAL, "tags come in x-gwcore-tags, and x-litellm-tags"),
    "custom_provider_map": (Status.MANUAL, "a provider of your own is a plugin: gwcore new provider"),
    "block_requests_for_models_without_pricing": (Status.EXACT, "so by itself where a budget binds: budget.unpriced"),
    "default_soft_budget": (Status.MANUAL, "budget.rules: soft"),
    "budget_rollover": (Status.UNSUPPORTED, "a window begins with its whole limit"),
    "max_end_user_budget_id": (Status.MANUAL, "budget.rules: per end_user"),
    "max_user_budget": (Status.MANUAL, "budget.rules: per user"),
    "default_max_internal_user_budget": (Status.MANUAL, "budget.rules: per user"),
    "default_internal_user_params": (Status.MANUAL, "budget.rules: per user; `models` of each user"),
    "default_team_params": (Status.MANUAL, "budget.rules: per team; `models` of each team"),
    "default_team_settings": (Status.MANUAL, "sinks are one for all; a team's policy may say what content they keep"),
    "default_key_generate_params": _KEYS,
    "upperbound_key_generate_params": _KEYS,
    "key_generation_settings": (Status.MANUAL, "who may make keys follows from roles: docs/guide/keys.md"),
    "cost_discount_config": (Status.MANUAL, "write the prices into upstreams.<name>.prices"),
    "cost_margin_config": (Status.UNSUPPORTED, "costs are what vendors bill"),
    "priority_reservation": (Status.UNSUPPORTED, "limits are per key, team …; shares of them are not reserved"),
    "prometheus_metrics_config": (Status.MANUAL, "prometheus.by says which labels there are"),
    "custom_prometheus_metadata_labels": (Status.UNSUPPORTED, "labels stay few: prometheus.by"),
    "custom_prometheus_tags": (Status.UNSUPPORTED, "labels stay few: prometheus.by"),
    "prometheus_latency_buckets": (Status.UNSUPPORTED, "buckets are fixed"),
    "disable_end_user_cost_tracking": (Status.MANUAL, "auth.end_users: false"),
    "s3_callback_params": (Status.MANUAL, "watch: webhook, or request_log"),
    "guardrails": _GUARD,
    "pre_call_rules": _GUARD,
    "post_call_rules": _GUARD,
    "public_model_groups": _NO_UI,
    "vertex_project": (Status.MANUAL, "upstreams.<name>.project"),
    "vertex_location": (Status.MANUAL, "upstreams.<name>.location"),
    "default_vertex_config": (Status.MANUAL, "upstreams.<name>.project and location"),
    "network_mock": (Status.MANUAL, "an upstream with `provider: demo`"),
    "enable_anthropic_prompt_caching": (Status.UNSUPPORTED, "prompt caching is what the client asks for"),
    "organization": (Status.MANUAL, "upstreams.<name>.headers: openai-organization"),
    "api_base": (Status.MANUAL, "upstreams.<name>.base_url"),
    "api_key": (Status.MANUAL, "upstreams.<name>.api_key"),
    "max_tokens": (Status.UNSUPPORTED, "vendors have their own default; a rule's sampling.max_tokens sets another"),
    "request_timeout": _NOTHING,
    "budget_exceeded_throttle_percentage": (Status.UNSUPPORTED, "an exhausted budget refuses"),
}  # fmt: skip

GENERAL: Final[dict[str, Said]] = {
    "store_model_in_db": _FILE_ONLY,
    "supported_db_objects": _FILE_ONLY,
    "store_prompts_in_spend_logs": (Status.MANUAL, "watch: request_log: {content: full}"),
    "disable_spend_logs": (Status.UNSUPPORTED, "each attempt is a row of the ledger; budget.retain says for how long"),
    "alert_types": (Status.MANUAL, "`kinds` of each destination of alerts"),
    "alerting_args": (Status.MANUAL, "alerts.reports, remind, settle …"),
    "alert_type_config": (Status.MANUAL, "`kinds` of each destination of alerts"),
    "spend_report_frequency": (Status.MANUAL, "alerts.reports: {daily: true, weekly: true}"),
    "health_check_interval": (Status.EXACT, "without background_health_checks nothing is checked"),
    "health_check_details": (Status.EXACT, "GET /health tells state and reason of each deployment"),
    "custom_auth": (Status.MANUAL, "a plugin that `identifies`, in place of auth: docs/reference/hooks.md"),
    "custom_auth_run_common_checks": (Status.MANUAL, "a plugin that `identifies`, in place of auth"),
    "custom_key_generate": (Status.UNSUPPORTED, "who may make keys, and with what, follows from roles"),
    "custom_sso": _NO_UI,
    "ui_access_mode": _NO_UI,
    "custom_ui_sso_sign_in_handler": _NO_UI,
    "enable_jwt_auth": (Status.MANUAL, "auth.jwt: docs/guide/keys.md"),
    "litellm_jwtauth": (Status.MANUAL, "auth.jwt: claims are mapped to team and user there"),
    "enforce_user_param": (Status.UNSUPPORTED, "a request needs no `user`"),
    "allowed_routes": (Status.MANUAL, "`routes` of each key"),
    "admin_only_routes": (Status.EXACT, "the admin API asks for a permission per address"),
    "public_routes": (Status.UNSUPPORTED, "GET /health is public, and nothing else"),
    "allowed_ips": (Status.MANUAL, "`networks` of each key"),
    "use_x_forwarded_for": (Status.MANUAL, "auth.trusted_proxies: the addresses of your proxies"),
    "trusted_proxy_ranges": (Status.MANUAL, "auth.trusted_proxies"),
    "key_management_system": (Status.MANUAL, "${file:…} reads what the secret manager mounts; the gateway asks none itself"),
    "key_management_settings": (Status.MANUAL, "${file:…} reads what the secret manager mounts"),
    "pass_through_endpoints": (Status.UNSUPPORTED, "native routes of the dialects are served; others are not passed on"),
    "max_response_size_mb": (Status.EXACT, "answers are not held in memory"),
    "infer_model_from_keys": (Status.UNSUPPORTED, "models are what the stack file lists"),
    "forward_client_headers_to_llm_api": (Status.APPROXIMATE, "the vendors' own headers reach upstreams (openai-, anthropic-, x-stainless- …); any other `x-` header does not"),
    "coordination_redis": (Status.MANUAL, "ratelimit.store and fallback.store: a redis store"),
    "use_redis_transaction_buffer": (Status.EXACT, "the ledger is in `book`, and gathers what it writes"),
    "allow_requests_on_db_unavailable": (Status.UNSUPPORTED, "known keys outlive a store for auth.ttl; money is never spent unseen"),
    "fail_closed_rate_limit_enforcement": (Status.MANUAL, "on_store_error: closed, of a rule of ratelimit"),
    "token_rate_limit_type": (Status.MANUAL, "`count` of a rule of ratelimit: input, output or total"),
    "cancel_on_disconnect": (Status.MANUAL, "budget.on_disconnect: cancel"),
    "max_queued_requests_per_worker": (Status.MANUAL, "ratelimit.queue, with `wait`"),
    "admission_queue_timeout_seconds": (Status.MANUAL, "ratelimit.wait"),
    "user_header_name": (Status.MANUAL, "auth.end_user_header"),
    "user_header_mappings": (Status.MANUAL, "auth.end_user_header: the header of the role `customer`"),
    "litellm_key_header_name": (Status.UNSUPPORTED, "keys come in authorization, x-api-key, api-key, x-goog-api-key or x-litellm-api-key"),
    "completion_model": (Status.UNSUPPORTED, "clients name their model"),
    "enforce_fallback_model_access": (Status.EXACT, "always: a fallback needs its own permission"),
    "disable_budget_reservation": (Status.UNSUPPORTED, "the most that a call can cost is always held"),
    "default_team_disabled": (Status.UNSUPPORTED, "keys need no team"),
    "service_account_settings": (Status.UNSUPPORTED, "keys need no user"),
    **dict.fromkeys(
        ("database_connection_pool_limit", "database_connection_timeout", "database_connect_timeout", "database_socket_timeout",
         "proxy_batch_write_at", "proxy_budget_rescheduler_min_time", "proxy_budget_rescheduler_max_time", "database_type",
         "disable_prisma_schema_update", "use_shared_health_check", "include_call_id_in_error_body", "enable_drain_endpoint",
         "disable_model_info_refresh", "always_include_stream_usage", "user_api_key_cache_ttl", "health_check_concurrency",
         "return_wildcard_routes", "proxy_config_reload_interval_seconds", "disable_master_key_return", "litellm_license"),
        _NOTHING,
    ),
}  # fmt: skip

SECTIONS: Final[dict[str, Said]] = {
    "guardrails": _GUARD,
    "callback_settings": (Status.MANUAL, "`content`, `patterns` and `outbox` of each sink under watch"),
    "prompts": (Status.UNSUPPORTED, "prompts are the clients'"),
    "mcp_servers": (Status.UNSUPPORTED, "MCP is not served"),
    "mcp_tools": (Status.UNSUPPORTED, "MCP is not served"),
    "vector_store_registry": (Status.UNSUPPORTED, "vector stores are not served"),
    "search_tools": (Status.UNSUPPORTED, "vendors' own tools pass; the gateway runs none"),
    "agents": (Status.UNSUPPORTED, "agents are clients"),
    "default_vertex_config": (Status.MANUAL, "upstreams.<name>.project and location"),
    "pass_through_endpoints": (
        Status.UNSUPPORTED,
        "native routes of the dialects are served; others are not passed on",
    ),
    "files_settings": (
        Status.MANUAL,
        "files go to the upstream named by x-gwcore-upstream, or to the first that takes them",
    ),
    "finetune_settings": (Status.UNSUPPORTED, "fine-tuning is not served"),
    "assistant_settings": (Status.UNSUPPORTED, "assistants are not served"),
}


_OFF: Final[Said] = (Status.EXACT, "off, and nothing is needed for that")
_FALSE: Final[dict[str, Said]] = {
    "drop_params": (
        Status.APPROXIMATE,
        "LiteLLM answers 400 to what the target lacks; here it is left out, and named in x-gwcore-dropped",
    ),
    "require_auth_for_metrics_endpoint": (Status.MANUAL, "prometheus.port serves metrics without a key; /metrics never does"),
    **dict.fromkeys(
        ("store_model_in_db", "store_prompts_in_spend_logs", "disable_spend_logs", "enable_jwt_auth", "disable_cooldowns",
         "enable_pre_call_checks", "cache_responses", "allow_requests_on_db_unavailable", "infer_model_from_keys", "budget_rollover",
         "enforce_user_param", "use_x_forwarded_for", "enable_health_check_routing", "merge_reasoning_content_in_choices"),
        _OFF,
    ),
}  # fmt: skip


def said_of(section: Section, known: Mapping[str, Said]) -> dict[str, Said]:
    """The findings for keys, some of which have another finding if they are false."""
    return {**known, **{key: said for key, said in _FALSE.items() if section.peek(key) is False}}

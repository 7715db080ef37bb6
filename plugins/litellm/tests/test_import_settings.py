"""Router, cache, callbacks, budgets, keys and stores; and what people write by mistake."""

import pytest
from litellm_kit import entry, made, statuses

MODELS = """\
model_list:
  - {model_name: a, litellm_params: {model: openai/a}}
  - {model_name: b, litellm_params: {model: anthropic/b}}
  - {model_name: "groq/*", litellm_params: {model: "groq/*"}}
"""


def router(folder, settings, more=""):
    stack, said = made(folder, f"{MODELS}router_settings: {settings}\n{more}")
    return entry(stack, "fallback"), said, stack


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("simple-shuffle", "shuffle"), ("least-busy", "least-busy"), ("latency-based-routing", "fastest"),
     ("cost-based-routing", "cheapest"), ("usage-based-routing-v2", "usage"), ("usage-based", "shuffle")],
)  # fmt: skip
def test_strategies(tmp_path, theirs, ours):
    route, said, _ = router(tmp_path, f"{{routing_strategy: {theirs}}}")
    assert route["strategy"] == ours
    assert ("error" in statuses(said, "router_settings.routing_strategy")) is (theirs == "usage-based")


def test_chains_go_where_they_lead(tmp_path):
    route, said, stack = router(
        tmp_path,
        "{num_retries: 1, cooldown_time: 30, allowed_fails: 0, stream_timeout: 9, model_group_alias: {c: a, d: {model: b, hidden: true}},"
        " fallbacks: [{a: [b, groq/x]}, {'*': [b]}], context_window_fallbacks: [{a: b}], default_fallbacks: [a]}",
        "litellm_settings: {content_policy_fallbacks: [{b: [a]}]}\n",
    )
    chain = {"fallbacks": ["b", "groq/x"], "context_window_fallbacks": ["b"]}
    refused = {"content_policy_fallbacks": ["a"]}
    assert route["models"] == {"a": chain, "c": chain, "b": refused, "d": refused}
    assert route["default_fallbacks"] == ["a"]
    assert route["retry"] == {"attempts": 6, "per_target": 1}  # two tries of each of three models
    assert (route["cooldown"], route["allowed_fails"], route["first_token"]) == ("30s", 1, "9s")
    assert stack["models"]["c"] == stack["models"]["a"]
    assert statuses(said, "router_settings.model_group_alias.d.hidden") == ["approximate"]


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ("{fallbacks: [{a: [a]}]}", "fallbacks.0.a"),
        ("{fallbacks: [{a: [nowhere]}]}", "fallbacks.0.a"),
        ("{fallbacks: [a]}", "fallbacks.0"),
        ("{fallbacks: {a: [b]}}", "fallbacks"),
        ("{model_group_alias: {c: [a, b]}}", "model_group_alias.c"),
        ("{model_group_alias: {c: nowhere}}", "model_group_alias.c"),
        ("{fallback: {enabled: true}}", "fallback"),
        ("{num_retires: 3}", "num_retires"),
        ("{master_key: x}", "master_key"),
    ],
)
def test_mistakes_in_the_router(tmp_path, settings, where):
    _, said, _ = router(tmp_path, settings)
    assert "error" in statuses(said, f"router_settings.{where}")


def test_shared_state_in_redis(tmp_path):
    route, _, stack = router(
        tmp_path, "{redis_host: os.environ/REDIS_HOST, redis_port: 6380, redis_password: 'p@ss:w/rd'}"
    )
    assert stack["stores"]["hot"] == "redis://:p%40ss%3Aw%2Frd@${REDIS_HOST}:6380/0"
    assert route["store"] == entry(stack, "ratelimit")["store"] == "hot"


def test_budgets_are_rules(tmp_path):
    _, _, stack = router(
        tmp_path,
        "{provider_budget_config: {openai: {budget_limit: 100, time_period: 1d}}}",
        "litellm_settings: {max_budget: 1000.0, budget_duration: 30d, max_end_user_budget: 0.5,"
        " tag_budget_config: {batch: {max_budget: 7, budget_duration: 1mo}}}\n",
    )
    assert entry(stack, "budget")["rules"] == [
        {"per": "upstream", "of": "openai", "limit": "$100", "window": "1d"},
        {"per": "global", "limit": "$1000", "window": "30d"},
        {"per": "end_user", "limit": "$0.5", "window": "total"},
        {"per": "tag", "of": "batch", "limit": "$7", "window": "1mo"},
    ]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("{type: local, ttl: 60}", {"ttl": "60s"}),
        ("{type: redis, host: h, port: '6379', ssl: True, namespace: n, mode: default_off, default_in_redis_ttl: 5}",
         {"store": "hot", "namespace": "n", "mode": "opt-in", "ttl": "5s"}),
        ("{type: redis, url: os.environ/REDIS_URL, supported_call_types: [acompletion, aembedding, atranscription]}",
         {"store": "hot", "operations": ["chat", "embeddings"]}),
        ("{type: redis-semantic, host: h, similarity_threshold: 0.9, redis_semantic_cache_embedding_model: a}",
         {"store": "hot", "semantic": {"model": "a", "similarity": 0.9}}),
        ("{type: disk, disk_cache_dir: /tmp/x}", {"store": "hot"}),
        ("{type: s3, s3_bucket_name: b}", {}),
    ],
)  # fmt: skip
def test_caches(tmp_path, params, expected):
    stack, said = made(tmp_path, f"{MODELS}litellm_settings: {{cache: true, cache_params: {params}}}\n")
    assert entry(stack, "cache") == expected
    assert ("unsupported" in statuses(said, "litellm_settings.cache_params.type")) is ("s3" in params)


def test_no_cache_where_none_is_asked_for(tmp_path):
    stack, said = made(tmp_path, f"{MODELS}litellm_settings: {{cache: False, cache_params: {{type: local}}}}\n")
    assert entry(stack, "cache") is None
    assert statuses(said, "litellm_settings.cache_params") == ["approximate"]


def test_callbacks_watch(tmp_path):
    stack, said = made(
        tmp_path,
        MODELS + "litellm_settings:\n  success_callback: [langfuse, datadog, s3, mine.handler, what]\n"
        "  failure_callback: langfuse\n  callbacks: [prometheus]\n",
    )
    assert entry(stack, "langfuse", "watch")["content"] == "full"
    assert entry(stack, "prometheus", "watch") == {"litellm_names": True}
    where = "litellm_settings.success_callback"
    assert [statuses(said, f"{where}.{at}") for at in range(5)] == [
        ["exact"],
        ["manual"],
        ["manual"],
        ["manual"],
        ["unsupported"],
    ]
    stack, _ = made(tmp_path, MODELS + "litellm_settings: {callbacks: [helicone], turn_off_message_logging: yes}\n")
    assert entry(stack, "helicone", "watch") == {"api_key": "${HELICONE_API_KEY}"}


def test_alerts(tmp_path):
    stack, _ = made(tmp_path, MODELS + "general_settings: {alerting: [slack], alerting_threshold: 300}\n")
    assert entry(stack, "alerts", "watch") == {
        "to": {"slack": {"slack": "${SLACK_WEBHOOK_URL}"}},
        "slow": {"after": "300s"},
    }


def test_who_may_call(tmp_path):
    stack, said = made(tmp_path, MODELS + "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n")
    assert entry(stack, "auth") == {"admin_key": "${LITELLM_MASTER_KEY}"}
    assert stack["server"] == {"host": "0.0.0.0"}
    stack, said = made(tmp_path, MODELS + "general_settings: {master_key: sk-1234, database_url: 'sqlite:///x.db'}\n")
    assert entry(stack, "auth") == {"admin_key": "${GWCORE_ADMIN_KEY}"}
    assert statuses(said, "general_settings.master_key") == ["manual"]
    assert statuses(said, "general_settings.database_url") == ["error"]
    assert stack["stores"]["book"] == "sqlite:///x.db"


def test_the_header_that_names_the_end_user_is_taken_over(tmp_path):
    given = "general_settings: {user_header_name: X-Staff-Id, forward_client_headers_to_llm_api: true%s}\n"
    stack, said = made(tmp_path, MODELS + given % ", master_key: os.environ/LITELLM_MASTER_KEY")
    assert entry(stack, "auth")["end_user_header"] == "X-Staff-Id"
    assert statuses(said, "general_settings.user_header_name") == ["exact"]
    assert statuses(said, "general_settings.forward_client_headers_to_llm_api") == ["approximate"]
    _, said = made(tmp_path, MODELS + given % "")
    assert statuses(said, "general_settings.user_header_name") == ["manual"]


def test_without_a_master_key_only_this_machine_may_call(tmp_path):
    stack, said = made(tmp_path, MODELS)
    assert "server" not in stack
    assert entry(stack, "auth") is None
    assert statuses(said, "general_settings") == ["manual"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("litellm_settings: {master_key: x}", "litellm_settings.master_key"),
        ("litellm_settings: {database_url: x}", "litellm_settings.database_url"),
        ("litellm_settings: {service_callbacks: [x]}", "litellm_settings.service_callbacks"),
        ("general_settings: {set_verbose: true}", "general_settings.set_verbose"),
        ("environment_variables: {KEY: os.environ/KEY}", "environment_variables.KEY"),
        ("litellm_settings: {cache: true, cache_params: {type: redis, host: '${REDIS_HOST}'}}", "litellm_settings.cache_params.host"),
        ("litelm_settings: {}", "litelm_settings"),
        ("litellm_settings: [x]", "litellm_settings"),
        ("general_settings: {database_url: mysql://x}", "general_settings.database_url"),
    ],
)  # fmt: skip
def test_mistakes_that_litellm_takes_in_silence(tmp_path, text, where):
    _, said = made(tmp_path, f"{MODELS}{text}\n")
    assert "error" in statuses(said, where)


def test_what_the_router_says_comes_before_litellm_settings(tmp_path):
    stack, said = made(
        tmp_path,
        MODELS + "router_settings: {num_retries: 0, timeout: '45', cooldown_time: 600}\n"
        "litellm_settings: {num_retries: 7, request_timeout: os.environ/WAIT_S, drop_params: false}\n",
    )
    layer = entry(stack, "fallback")
    assert layer["retry"] == {"attempts": 1, "per_target": 0}
    assert (layer["cooldown"], layer["max_cooldown"]) == ("600s", "600s")
    assert stack["upstreams"]["openai"]["timeout"] == "45s"
    assert statuses(said, "litellm_settings.drop_params") == ["approximate"]  # LiteLLM answers 400 then


def test_a_cooldown_of_0_is_litellms_default(tmp_path):
    stack, said = made(tmp_path, MODELS + "router_settings: {cooldown_time: 0}\n")
    assert entry(stack, "fallback")["cooldown"] == "5s"
    assert statuses(said, "router_settings.cooldown_time") == ["error"]


def test_aliases_are_asked_as_litellm_asks_them(tmp_path):
    stack, said = made(
        tmp_path,
        MODELS + "router_settings:\n"
        "  model_group_alias: {a: b, star: groq/llama, mine: b}\n"
        "  fallbacks: [{mine: [star]}, {b: [groq/x]}, {nowhere: [b]}]\n",
    )
    assert stack["models"]["a"] == "anthropic/b"  # before the deployments of that name
    assert statuses(said, "router_settings.model_group_alias.a") == ["error"]
    assert stack["models"]["star"] == "groq/llama"
    routes = entry(stack, "fallback")["models"]
    assert routes["mine"]["fallbacks"] == ["star"]  # its own, and not those of what it stands for
    assert routes["a"]["fallbacks"] == ["groq/x"]
    assert statuses(said, "router_settings.fallbacks.2.nowhere") == ["error"]
    assert "nowhere" not in routes


def test_without_a_master_key_the_environments_is_told_of(tmp_path):
    _, said = made(tmp_path, MODELS)
    ((status, what),) = said["general_settings"]
    assert status == "manual"
    assert "without LITELLM_MASTER_KEY in its environment" in what


def test_redis_that_the_file_does_not_name_is_that_of_the_environment(tmp_path):
    stack, _ = made(tmp_path, MODELS + "litellm_settings: {cache: true, cache_params: {type: redis}}\n")
    assert stack["stores"]["hot"] == "redis://:${REDIS_PASSWORD:-}@${REDIS_HOST}:${REDIS_PORT:-6379}/0"


def test_what_is_off_is_not_asked_for(tmp_path):
    _, said = made(
        tmp_path,
        MODELS + "general_settings: {store_model_in_db: false, enable_jwt_auth: false}\n"
        "router_settings: {disable_cooldowns: false}\n"
        "litellm_settings: {require_auth_for_metrics_endpoint: false}\n",
    )
    assert statuses(said, "general_settings.store_model_in_db") == ["exact"]
    assert statuses(said, "general_settings.enable_jwt_auth") == ["exact"]
    assert statuses(said, "router_settings.disable_cooldowns") == ["exact"]
    assert statuses(said, "litellm_settings.require_auth_for_metrics_endpoint") == ["manual"]  # /metrics wants a key

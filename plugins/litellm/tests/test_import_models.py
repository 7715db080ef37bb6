"""``model_list``: upstreams, targets, prices, what is known of deployments, defaults of requests."""

import pytest
from litellm_kit import entry, made, statuses

ONE = "model_list:\n  - model_name: m\n    litellm_params: {params}\n"


def upstream(folder, params, info="{}"):
    stack, said = made(folder, ONE.format(params=params) + f"    model_info: {info}\n")
    (name,) = stack["upstreams"]
    return name, stack["upstreams"][name], stack["models"]["m"], said


@pytest.mark.parametrize(
    ("params", "expected", "target"),
    [
        ("{model: gpt-4o}", {"provider": "openai", "api_key": "${OPENAI_API_KEY}"}, "openai/gpt-4o"),
        (
            "{model: openai/gpt-4o, api_key: os.environ/KEY_2}",
            {"provider": "openai", "api_key": "${KEY_2}"},
            "openai/gpt-4o",
        ),
        (
            "{model: openai/qwen, api_base: 'http://gpu.example:8000/v1', api_key: none}",
            {"provider": "openai-compatible", "base_url": "http://gpu.example:8000/v1", "api_key": "none"},
            "gpu/qwen",
        ),
        (
            "{model: openai/qwen, api_base: os.environ/BASE}",
            {"provider": "openai-compatible", "base_url": "${BASE}"},
            "openai/qwen",
        ),
        ("{model: qwen, base_url: 'http://localhost:8000/v1'}",
         {"provider": "openai-compatible", "base_url": "http://localhost:8000/v1"}, "local/qwen"),
        (
            "{model: azure/mine, api_base: 'https://x.openai.azure.com/', api_version: 2024-10-21}",
            {"provider": "azure", "base_url": "https://x.openai.azure.com", "api_key": "${AZURE_API_KEY}",
             "api_version": "2024-10-21"},
            "azure/mine",
        ),
        (
            "{model: azure/o_series/mine, api_base: 'https://x.openai.azure.com/openai/deployments/y?api-version=1'}",
            {"provider": "azure", "base_url": "https://x.openai.azure.com", "api_key": "${AZURE_API_KEY}"},
            "azure/mine",
        ),
        (
            "{model: anthropic/claude-sonnet-4-5, api_base: 'https://a.example/proxy/v1/messages'}",
            {"provider": "anthropic", "base_url": "https://a.example/proxy", "api_key": "${ANTHROPIC_API_KEY}"},
            "anthropic/claude-sonnet-4-5",
        ),
        ("{model: claude-sonnet-4-5}", {"provider": "anthropic", "api_key": "${ANTHROPIC_API_KEY}"},
         "anthropic/claude-sonnet-4-5"),
        ("{model: gemini/gemini-2.5-flash}", {"provider": "gemini", "api_key": "${GEMINI_API_KEY}"},
         "gemini/gemini-2.5-flash"),
        (
            "{model: vertex_ai/gemini-2.5-pro, vertex_project: p1, vertex_location: europe-west4}",
            {"provider": "vertex", "project": "p1", "location": "europe-west4"},
            "vertex/gemini-2.5-pro",
        ),
        (
            "{model: bedrock/converse/us.amazon.nova-pro-v1:0, aws_region_name: eu-west-1, aws_profile_name: ops}",
            {"provider": "bedrock", "region": "eu-west-1", "profile": "ops"},
            "bedrock/us.amazon.nova-pro-v1:0",
        ),
        ("{model: bedrock/us-west-2/anthropic.claude-v2}", {"provider": "bedrock", "region": "us-west-2"},
         "bedrock/anthropic.claude-v2"),
        ("{model: ollama_chat/qwen3:4b, api_base: 'http://box:11434'}",
         {"provider": "ollama", "base_url": "http://box:11434"}, "ollama/qwen3:4b"),
        ("{model: hosted_vllm/m, api_base: 'http://gpu:8000/v1'}",
         {"provider": "vllm", "base_url": "http://gpu:8000/v1"}, "vllm/m"),
        ("{model: openrouter/meta/llama:free}", {"provider": "openrouter", "api_key": "${OPENROUTER_API_KEY}"},
         "openrouter/meta/llama:free"),
        ("{model: nebius/a/b}", {"provider": "openai-compatible", "base_url": "https://api.studio.nebius.ai/v1",
                                 "api_key": "${NEBIUS_API_KEY}"}, "nebius/a/b"),
        ("{model: gpt-4o, organization: org-1, extra_headers: {x-a: b}, timeout: 30}",
         {"provider": "openai", "api_key": "${OPENAI_API_KEY}", "headers": {"openai-organization": "org-1", "x-a": "b"},
          "timeout": "30s"}, "openai/gpt-4o"),
    ],
)  # fmt: skip
def test_a_deployment_is_a_target_at_an_upstream(tmp_path, params, expected, target):
    _, found, meaning, said = upstream(tmp_path, params)
    assert (found, meaning) == (expected, target)
    assert "error" not in {status for findings in said.values() for status, _ in findings}


def test_equal_settings_are_one_upstream_and_others_are_not(tmp_path):
    stack, _ = made(
        tmp_path,
        """
        model_list:
          - {model_name: a, litellm_params: {model: openai/a, api_key: os.environ/ONE}}
          - {model_name: b, litellm_params: {model: openai/b, api_key: os.environ/ONE}}
          - {model_name: b, litellm_params: {model: openai/b, api_key: os.environ/TWO}}
          - {model_name: "anthropic/*", litellm_params: {model: "anthropic/*"}}
        """,
    )
    assert list(stack["upstreams"]) == ["openai", "openai-2", "anthropic"]
    assert stack["models"] == {"a": "openai/a", "b": ["openai/b", "openai-2/b"], "anthropic/*": "anthropic/*"}


@pytest.mark.parametrize(
    ("params", "info", "expected"),
    [
        ("input_cost_per_token: 0.0000025, output_cost_per_token: 1.0e-05", "{}", {"input": "$2.5/M", "output": "$10/M"}),
        ("input_cost_per_token: 0, output_cost_per_token: 0", "{}", "free"),
        ("", "{base_model: azure/gpt-4o}", {"base_model": "gpt-4o"}),
        ("", "{input_cost_per_token: 1e-7, cache_read_input_token_cost: '2.5e-8', max_input_tokens: 8000, max_output_tokens: 99}",
         {"input": "$0.1/M", "cache_read": "$0.025/M", "context_window": 8000, "max_output": 99}),
        ("input_cost_per_token: 3e-6, input_cost_per_token_above_200k_tokens: 6e-6, input_cost_per_request: 0.01", "{}",
         {"input": "$3/M", "fees": {"request": "$0.01/1"}, "tiers": [{"above": 200_000, "input": "$6/M"}]}),
    ],
)  # fmt: skip
def test_prices_are_per_million(tmp_path, params, info, expected):
    _, found, _, _ = upstream(tmp_path, f"{{model: openai/m, {params}}}", info)
    assert found["prices"]["m"] == expected


def test_a_price_that_is_a_reference_is_for_somebody_to_write(tmp_path):
    _, found, _, said = upstream(tmp_path, "{model: openai/m, input_cost_per_token: os.environ/PRICE}")
    assert "prices" not in found
    assert statuses(said, "model_list.0.litellm_params.input_cost_per_token") == ["manual"]


def test_what_is_known_of_deployments(tmp_path):
    stack, _ = made(
        tmp_path,
        """
        model_list:
          - model_name: m
            litellm_params: {model: openai/a, rpm: 600, tpm: 100000, max_parallel_requests: 20, max_budget: 5, budget_duration: 1d}
          - model_name: m
            litellm_params: {model: openai/b, rpm: 300, tags: [eu]}
          - model_name: n
            litellm_params: {model: openai/c, rpm: 5, stream_timeout: 20}
        router_settings: {enable_tag_filtering: true}
        """,
    )
    route = entry(stack, "fallback")
    assert route["deployments"] == {
        "openai/a": {"requests": "600/min", "tokens": "100000/min", "weight": 100},
        "openai/b": {"requests": "300/min", "tags": ["eu"], "weight": 50},
        "openai/c": {"requests": "5/min"},
    }
    assert route["models"] == {"n": {"first_token": "20s"}}
    (limit,) = entry(stack, "ratelimit")["rules"]
    assert limit == {"per": ["upstream", "model"], "upstreams": ["openai"], "when": {"models": ["m"]}, "parallel": 20}
    assert entry(stack, "budget")["rules"] == [{"per": "model", "of": "openai/a", "limit": "$5", "window": "1d"}]


def test_order_is_the_order_of_the_list(tmp_path):
    stack, _ = made(
        tmp_path,
        """
        model_list:
          - {model_name: m, litellm_params: {model: openai/second, order: 2}}
          - {model_name: m, litellm_params: {model: openai/first, order: 1}}
        """,
    )
    assert stack["models"]["m"] == ["openai/first", "openai/second"]
    assert entry(stack, "fallback")["models"]["m"] == {"strategy": "ordered"}


def test_defaults_of_requests_are_a_rule_for_each_name(tmp_path):
    stack, said = made(
        tmp_path,
        """
        model_list:
          - {model_name: m, litellm_params: {model: openai/a, temperature: 0.2, max_tokens: 100, reasoning_effort: low}}
          - {model_name: m, litellm_params: {model: openai/b}}
        router_settings: {model_group_alias: {other: m}}
        """,
    )
    (rule,) = entry(stack, "rules")["rules"]
    assert rule["when"] == {"models": ["m", "other"]}
    assert rule["sampling"] == {"temperature": 0.2, "max_tokens": 100}
    assert statuses(said, "model_list.0.litellm_params.reasoning_effort") == ["manual"]
    assert "different defaults" in said["model_list"][0][1]


def test_credentials_and_included_files_are_put_in(tmp_path):
    (tmp_path / "more.yaml").write_text(
        "model_list:\n  - model_name: late\n    litellm_params: {model: openai/late, typo_key_here: 1}\n"
        "litellm_settings: {drop_params: true}\n"
    )
    stack, said = made(
        tmp_path,
        """
        include: [more.yaml]
        model_list:
          - {model_name: m, litellm_params: {model: gpt-x, litellm_credential_name: eu}}
          - {model_name: n, litellm_params: {model: gpt-x, litellm_credential_name: nowhere}}
        credential_list:
          - credential_name: eu
            credential_values: {api_key: os.environ/EU_KEY, api_base: "https://eu.openai.azure.com"}
            credential_info: {custom_llm_provider: Azure}
        """,
    )
    assert stack["upstreams"]["azure"]["api_key"] == "${EU_KEY}"
    assert stack["models"] == {"m": "azure/gpt-x", "n": "openai/gpt-x", "late": "openai/late"}
    assert statuses(said, "model_list.1.litellm_params.litellm_credential_name") == ["error"]
    assert "model_list.2.litellm_params.typo_key_here" in said


@pytest.mark.parametrize(
    ("entry_text", "where", "status"),
    [
        ("{model_name: m, litellm_params: null, model: openai/m}", "litellm_params", "error"),
        ("{model_name: m, litellm_params: {}}", "litellm_params.model", "error"),
        ("{model_name: m, litellm_params: {model: azure/}}", "litellm_params.model", "error"),
        ("{model_name: m, litellm_params: {model: elevenlabs/v3}}", "litellm_params.model", "unsupported"),
        ("{model_name: m, litellm_params: {model: os.environ/MODEL}}", "litellm_params.model", "manual"),
        ("{model_name: [m], litellm_params: {model: openai/m}}", "model_name", "error"),
        ("{model_name: m, litellm_params: {model: openai/m, temperatur: 1}}", "litellm_params.temperatur", "error"),
        ("{model_name: m, litellm_params: {model: openai/m, allowed_fails: 1}}", "litellm_params.allowed_fails", "error"),
        ("{model_name: m, litellm_params: {model: openai/m, rpm: many}}", "litellm_params.rpm", "error"),
        ("{model_name: m, litellm_params: {model: openai/m, silent_model: x}}", "litellm_params.silent_model", "unsupported"),
        ("{model_name: m, litellm_params: {model: openai/m}, model_info: {mode: realtime}}", "model_info.mode", "unsupported"),
        ("{model_name: m, litellm_params: {model: openai/os.environ/NAME}}", "litellm_params.model", "error"),
    ],
)  # fmt: skip
def test_what_is_not_meant_so_is_told(tmp_path, entry_text, where, status):
    _, said = made(
        tmp_path, f"model_list:\n  - {entry_text}\n  - {{model_name: x, litellm_params: {{model: gpt-4o}}}}\n"
    )
    assert status in statuses(said, f"model_list.0.{where}")


def test_what_stands_beside_litellm_params_is_read_as_it_was_meant(tmp_path):
    stack, _ = made(tmp_path, "model_list:\n  - model_name: m\n    litellm_params:\n    model: openai/a\n    rpm: 5\n")
    assert stack["models"] == {"m": "openai/a"}


@pytest.mark.parametrize(
    ("params", "expected", "target"),
    [
        (  # a gateway's own path stays, wherever a word of a vendor's path stands in it
            "{model: anthropic/claude-x, api_base: 'https://gw.example/v1/account/name/anthropic'}",
            {"provider": "anthropic", "base_url": "https://gw.example/v1/account/name/anthropic"},
            "anthropic/claude-x",
        ),
        (
            "{model: azure/mine, api_base: 'https://gw.example/openai/tenant'}",
            {"provider": "azure", "base_url": "https://gw.example/openai/tenant"},
            "azure/mine",
        ),
        (  # LiteLLM takes the prefix off
            "{model: xinference/llama, api_base: 'http://gpu.example:9997/v1'}",
            {"provider": "openai-compatible", "base_url": "http://gpu.example:9997/v1"},
            "gpu/llama",
        ),
        (  # one model alone, which speaks OpenAI's API
            "{model: azure_ai/mistral, api_base: 'https://mistral.eastus2.models.ai.azure.com/v1'}",
            {"provider": "openai-compatible", "base_url": "https://mistral.eastus2.models.ai.azure.com/v1"},
            "mistral/mistral",
        ),
        (
            "{model: azure_ai/claude-x, api_base: 'https://r.services.ai.azure.com/'}",
            {"provider": "anthropic", "base_url": "https://r.services.ai.azure.com/anthropic"},
            "anthropic/claude-x",
        ),
        ("{model: text-embedding-004, vertex_project: p}", {"provider": "vertex"}, "vertex/text-embedding-004"),
        ("{model: ollama/q}", {"base_url": "${OLLAMA_API_BASE:-http://localhost:11434}"}, "ollama/q"),
        (
            "{model: 'bedrock/arn:aws:bedrock:eu-west-1:1:inference-profile/eu.x'}",
            {"provider": "bedrock", "region": "eu-west-1"},
            "bedrock/arn:aws:bedrock:eu-west-1:1:inference-profile/eu.x",
        ),
    ],
)
def test_a_request_goes_where_litellm_sent_it(tmp_path, params, expected, target):
    _, settings, found, _ = upstream(tmp_path, params)
    assert ({key: settings[key] for key in expected}, found) == (expected, target)


@pytest.mark.parametrize(
    "params",
    [
        "{model: watsonx/llama, api_base: 'https://w.example', api_key: x}",
        "{model: sagemaker/llama, api_base: 'https://w.example'}",
        "{model: gpt-4o, custom_llm_provider: github_copilot}",
    ],
)
def test_what_litellm_asks_in_another_way_is_not_asked_in_openais(tmp_path, params):
    stack, said = made(tmp_path, ONE.format(params=params))
    assert "upstreams" not in stack
    (told,) = said["model_list.0.litellm_params.model"]
    assert told[0] == "unsupported"
    assert told[1].startswith(("watsonx ", "sagemaker ", "github_copilot "))


def test_an_address_or_a_region_that_is_not_the_same_is_told(tmp_path):
    _, settings, _, said = upstream(tmp_path, "{model: bedrock/eu.amazon.nova-pro-v1:0}")
    assert settings["region"] == "${AWS_REGION_NAME}"  # never a region that nobody named
    assert statuses(said, "model_list.0.litellm_params.model") == ["manual"]
    _, settings, _, said = upstream(tmp_path, "{model: vertex_ai/gemini-x, api_base: 'https://proxy.example/v'}")
    assert "base_url" not in settings
    assert statuses(said, "model_list.0.litellm_params.api_base") == ["manual"]
    _, _, _, said = upstream(tmp_path, "{model: gemini/x, api_base: 'https://a.example/v1/publishers/google'}")
    assert statuses(said, "model_list.0.litellm_params.api_base") == ["manual"]


def test_what_is_said_of_one_deployment_is_not_said_of_another(tmp_path):
    """LiteLLM keeps limits, weights and prices of each entry, though two be the same model with the same key."""
    stack, _ = made(
        tmp_path,
        """
        model_list:
          - {model_name: ci, litellm_params: {model: openai/gpt-4o, rpm: 10, input_cost_per_token: 0.000001}}
          - {model_name: all, litellm_params: {model: openai/gpt-4o, rpm: 900, input_cost_per_token: 0.000009}}
          - {model_name: also, litellm_params: {model: openai/gpt-4o, rpm: 10, input_cost_per_token: 0.000001}}
        """,
    )
    assert stack["models"] == {"ci": "openai/gpt-4o", "all": "openai-2/gpt-4o", "also": "openai/gpt-4o"}
    kept = entry(stack, "fallback")["deployments"]
    assert kept == {"openai/gpt-4o": {"requests": "10/min"}, "openai-2/gpt-4o": {"requests": "900/min"}}
    prices = [stack["upstreams"][name]["prices"]["gpt-4o"]["input"] for name in ("openai", "openai-2")]
    assert prices == ["$1/M", "$9/M"]


def test_files_include_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.yaml").write_text(
        "include: [c.yaml, ../config.yaml, d.yaml]\n"
        "model_list: [{model_name: b, litellm_params: {model: openai/b, rpm: 5}}]\n"
        "litellm_settings: {num_retries: 4}\n"
    )
    (tmp_path / "sub/c.yaml").write_text("model_list: [{model_name: c, litellm_params: {model: openai/c}}]\n")
    (tmp_path / "d.yaml").write_text("model_list: [{model_name: d, litellm_params: {model: openai/d}}]\n")
    stack, said = made(
        tmp_path,
        """
        include: [sub/b.yaml]
        model_list: []
        litellm_settings: {drop_params: true}
        """,
    )
    assert list(stack["models"]) == ["b", "c", "d"]
    assert statuses(said, "litellm_settings") == ["error"]  # LiteLLM forgets the main file's
    assert entry(stack, "fallback")["retry"]["per_target"] == 4
    assert statuses(said, "model_list.0.litellm_params.rpm") == ["approximate"]


def test_what_a_model_can_is_told_by_lists_once_its_prices_do(tmp_path):
    """It was exact, and clients that read /model/info sent no more images."""
    *_, said = upstream(tmp_path, "{model: gpt-4o}", "{supports_vision: true, supports_reasoning: false}")
    assert statuses(said, "model_list.0.model_info.supports_vision") == ["approximate"]
    assert statuses(said, "model_list.0.model_info.supports_reasoning") == ["exact"]

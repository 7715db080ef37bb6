"""Whatever stands in the file: a stack file comes of it, no key is passed over in silence, and no secret is told."""

import stat

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from litellm_kit import environment
from typer.testing import CliRunner

from gwcore import cli
from gwcore.errors import BadConfig
from gwcore_litellm.cli import importing
from gwcore_litellm.importer import imported
from gwcore_litellm.names import NAMES
from gwcore_litellm.source import Section

CANARY = "sk-canary-of-a-secret-0123456789"
SECTIONS = ("router_settings", "litellm_settings", "general_settings")
FILE = f"""\
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_key: {CANARY}, rpm: 5}}
general_settings: {{master_key: {CANARY}, alerting_threshold: {CANARY}, typo: {CANARY}}}
litellm_settings: {{cache: true, cache_params: {{type: redis, host: h, password: {CANARY}}}, max_budget: {CANARY}}}
router_settings: {{routing_strategy: {CANARY}, redis_host: h, redis_password: {CANARY}, fallbacks: [{{m: [{CANARY}]}}]}}
environment_variables: {{KEY: {CANARY}}}
"""

_words = st.sampled_from(
    ["m", "n", "*", "openai/m", "os.environ/NAME", "${NAME}", "", "redis", "sk-x", "a b", "ü", "30d"]
)
_scalars = st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats(allow_nan=False) | _words
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3), max_leaves=6
)


def _mapping(section):
    keys = st.sampled_from(sorted(NAMES[section])) | st.sampled_from(["unknown_word", "x"])
    return st.dictionaries(keys, _values, max_size=6)


_params = _mapping("litellm_params").flatmap(
    lambda some: st.sampled_from(
        ["openai/m", "gpt-4o", "azure/x", "bedrock/y", "vertex_ai/z", "ollama/q", "nobody/x", "*", ""]
    ).map(lambda model: {**some, "model": model})
)
_deployment = st.fixed_dictionaries(
    {"model_name": _words}, optional={"litellm_params": _params, "model_info": _mapping("model_info"), "model": _words}
)
_file = st.fixed_dictionaries(
    {"model_list": st.lists(_deployment, max_size=3)},
    optional={
        **{section: _mapping(section) for section in SECTIONS},
        "litellm_settings": st.builds(
            lambda some, params: {**some, "cache": True, "cache_params": params}, _mapping("litellm_settings"), _mapping("cache_params")
        ),
        "environment_variables": _values, "credential_list": _values, "guardrails": _values, "nonsense": _values,
    },
)  # fmt: skip


def _paths(data):
    """Every key that a person wrote into one of the sections."""
    for section in SECTIONS:
        for key, value in (data.get(section) or {}).items():
            if value is not None and value != {}:
                yield f"{section}.{key}"
    for at, deployment in enumerate(data["model_list"]):
        for part in ("litellm_params", "model_info"):
            for key, value in (deployment.get(part) or {}).items():
                if value is not None:
                    yield f"model_list.{at}.{part}.{key}"


def passed_over(file, data):
    """Keys of which no finding tells; those of a deployment that was left out are told with it."""
    text, findings = imported(file)
    assert yaml.safe_load(text)["gwcore"] == 1
    told = [finding.where for finding in findings]
    out = {
        finding.where.rpartition(".")[0].removesuffix(".litellm_params")
        for finding in findings
        if finding.said.endswith("left out") and finding.where.startswith("model_list")
    }
    twice = {finding.where.removesuffix(".litellm_params") for finding in findings if "twice" in finding.said}
    left = (path for path in _paths(data) if not path.startswith(tuple(f"{place}." for place in out | twice)))
    return [path for path in left if not any(where == path or where.startswith(f"{path}.") for where in told)]


@settings(deadline=None)
@given(_file)
def test_every_key_is_told_of(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("any") / "config.yaml"
    file.write_text(yaml.safe_dump(data, allow_unicode=True))
    assert passed_over(file, data) == []


@pytest.mark.parametrize("key", ["provider_budget_config", "model_group_alias"])
def test_a_mapping_without_values_is_told_of(tmp_path, key):
    data = {"model_list": [], "router_settings": {key: {"m": None}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    assert passed_over(tmp_path / "config.yaml", data) == []


def test_a_key_that_is_passed_over_would_be_seen(tmp_path, monkeypatch):
    data = {"model_list": [], "general_settings": {"ui_access_mode": "all"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setattr(Section, "rest", lambda *_: None)
    assert passed_over(tmp_path / "config.yaml", data) == ["general_settings.ui_access_mode"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "- a\n", "model_list: [\n", "a: 1\na: 2\n", "\x00"])
def test_what_is_no_config_is_refused_with_a_sentence(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig, match=r"config\.yaml"):
        imported(file)


def run(*arguments):
    return CliRunner().invoke(importing, ["litellm", *map(str, arguments)])


def test_secrets_go_into_the_file_and_nowhere_else(tmp_path):
    config, out = tmp_path / "config.yaml", tmp_path / "stack.yaml"
    config.write_text(FILE)
    done = run(config, "--out", out, "--all")
    assert done.exit_code == 1  # there are mistakes in it
    assert "error: general_settings.typo" in done.output
    assert CANARY not in done.output
    assert CANARY in out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_the_verb(tmp_path):
    config, out = tmp_path / "config.yaml", tmp_path / "stack.yaml"
    config.write_text("model_list:\n  - {model_name: m, litellm_params: {model: gpt-4o, region_name: eu}}\n")
    done = run(config)
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["models"] == {"m": "openai/gpt-4o"}
    assert "2 exact, 0 approximate, 1 manual, 1 unsupported, 0 error" in done.stderr
    assert "variables of the environment that it needs: OPENAI_API_KEY" in done.stderr
    assert ": exact: " not in done.stderr
    assert ": exact: " in run(config, "--all").stderr
    out.write_text("mine")
    out.chmod(0o644)
    assert run(config, "--out", out).exit_code == 2
    assert out.read_text() == "mine"
    assert run(config, "--out", out, "--force").exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert environment(out.read_text()).keys() == {"OPENAI_API_KEY"}
    assert run(tmp_path / "nowhere.yaml").exit_code == 2


def test_gwcore_import_is_a_verb_of_the_command(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model_list: []\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(["import", "litellm", str(tmp_path / "config.yaml")])
    assert ended.value.code == 0
    assert "gwcore: 1" in capsys.readouterr().out

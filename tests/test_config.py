"""Broken stack files: every problem is found, at its line, with a mend, and no secret in it. Good ones: what they become."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from gwcore.config import StackConfig, is_loopback, json_schema, read
from gwcore.errors import AssemblyError, BadConfig
from gwcore.stackfile import StackErrors, load
from gwcore.testing.fakes import FakeDialect
from gwcore.units import AdminSecret, Duration, Money, Rate, StoreRef
from gwcore.wire.transport import Timeouts, Tls

BROKEN = sorted(Path(__file__).with_name("broken_stacks").glob("*.yaml"))
EXPECT = re.compile(r"# expect: (\d+:\d+) (.+)")
CANARY = "canary-secret-77"
STRONG = "9f86d081884c7d659a2feaa0c55ad015"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Auth(Strict):
    store: StoreRef = Field(default="memory", description="where keys are kept")
    master_key: AdminSecret | None = Field(default=None, description="opens everything")


class Rule(Strict):
    per: str = Field(description="key, team or user")
    requests: Rate = Field(description="how many")
    budget: Money | None = Field(default=None, description="how much")


class RateLimit(Strict):
    store: StoreRef = Field(default="memory", description="where counters are kept")
    rpm: int = Field(gt=0, description="requests per minute")
    rmp_burst_size: int = Field(default=1, description="requests at once")
    rules: list[Rule] = Field(default=[], description="one limit each")
    ttl: Duration | None = Field(default=None, description="how long")


class Leaky(Strict):
    """Validators as careless as a third party's."""

    token: SecretStr | None = None
    plain: str = "x"
    tokens: dict[str, SecretStr] = {}
    one_of: int | list[int] = 1

    @field_validator("token")
    @classmethod
    def _says_it(cls, value):
        raise ValueError(f"the token {value.get_secret_value()} does not work")

    @field_validator("plain")
    @classmethod
    def _says_part(cls, value):
        if value == "crash":
            raise RuntimeError(value)
        raise ValueError(f"cannot open {value[3:-2].upper()}")


class BetaOptions(Strict):
    api_version: str = Field(description="which version of the API")
    region: str = Field(default="eu", description="where")


class Registry:
    plugins = {"auth": Auth, "ratelimit": RateLimit, "leaky": Leaky}

    def plugin_config(self, name):
        if name == "broken":
            raise ImportError("no module named driver")
        return self.plugins.get(name)

    def plugin_names(self):
        return sorted(self.plugins)

    watch_names = plugin_names

    def provider_options(self, name):
        return BetaOptions if name == "beta" else None

    def provider_names(self):
        return ["alpha", "beta"]

    def identifies(self, name):
        return name == "auth"

    def dialects(self):
        return [FakeDialect()]

    def offered(self, name):
        return []

    def install_hint(self, name):
        return {"cache": "gwcore-cache"}.get(name)


ENV = {"KEY": "sk-live-" + CANARY, "EMPTY": ""}


def check(source, env=ENV):
    return read(load(source), env=env, registry=Registry())


def problems(source, env=ENV):
    with pytest.raises(StackErrors) as caught:
        check(source, env)
    assert CANARY not in caught.value.message + repr(caught.value)
    return caught.value.problems


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_broken(file):
    expected = EXPECT.findall(file.read_text())
    assert expected
    found = problems(file)
    assert [f"{p.line}:{p.col}" for p in found] == [at for at, _ in expected], "\n".join(map(str, found))
    for problem, (_, text) in zip(found, expected, strict=True):
        assert text in str(problem)
        assert problem.mend
        assert str(problem).startswith(f"{file}:{problem.line}:{problem.col}: ")


def test_there_are_enough_broken_files():
    assert len(BROKEN) >= 30


GOOD = """\
gwcore: 1
stores:
  hot: redis://${HOST:-localhost}/0
upstreams:
  main:
    provider: alpha
    api_key: "${KEY}"
    base_url: https://api.example/v1
    headers: {X-Team: "${KEY}"}
    timeout: 30s
    models: [small]
  far: {provider: beta, api_version: 2024-10-21, timeout: {connect: 1s, total: 5m, idle: null}, http2: true}
  near: {provider: alpha, base_url: "http://127.0.0.1:9", tls: {verify: false}, proxy: "http://me:${KEY}@proxy:1"}
models:
  fast: [main/a, far/b/c]
  one: main/a
  two: small
  "gpt-*": main/gpt-*
  "*": pass
stack:
  - auth: {store: hot, master_key: "${MASTER}"}
    when: {models: "gpt-*", tags: [a, b]}
  - auth
  - ratelimit: {rpm: "${RPM}", rules: [{per: key, requests: 200k/min, budget: $5}]}
watch:
  - auth:
asgi:
  - "some.module:Class"
  - {"some.module:Other": {key: "${KEY}"}}
server: {port: 0, max_body: 1MiB, keepalive: 15s}
"""
GOOD_ENV = {**ENV, "MASTER": STRONG, "RPM": "60"}


def test_a_good_file():
    config = check(GOOD, GOOD_ENV)
    main, far, near = config.upstreams.values()
    assert config.stores == {"memory": "memory:", "book": "sqlite:///gwcore.db", "hot": "redis://localhost/0"}
    assert main.api_key.get_secret_value() == ENV["KEY"]
    assert main.headers["X-Team"].get_secret_value() == ENV["KEY"]
    assert main.timeouts == Timeouts(first_byte=30.0)
    assert far.timeouts == Timeouts(connect=1.0, idle=None, total=300.0)
    assert far.options == BetaOptions(api_version="2024-10-21")
    assert (near.tls, main.tls, near.options) == (Tls(verify=False), Tls(), None)
    assert config.models["fast"] == ["main/a", "far/b/c"]
    assert (config.models["one"], config.models["*"]) == (["main/a"], "pass")
    first, second, third = config.stack
    assert (first.name, first.loc, first.when.models, first.when.tags) == ("auth", ("stack", 0), ["gpt-*"], ["a", "b"])
    assert (second.config, second.when) == (Auth(), None)
    assert third.config.rpm == 60
    assert third.config.rules[0].requests == Rate(200_000, 60.0)
    assert third.config.rules[0].budget == 5_000_000_000
    assert config.watch[0].config == Auth()
    assert [(a.app, a.options) for a in config.asgi][1] == ("some.module:Other", {"key": ENV["KEY"]})
    assert (config.server.port, config.server.max_body, config.server.keepalive) == (0, 1 << 20, 15.0)
    assert (config.server.drain, config.server.host) == (30.0, "127.0.0.1")


def test_no_secret_in_a_repr():
    said = repr(check(GOOD, GOOD_ENV)) + repr(load(GOOD))
    assert CANARY not in said
    assert STRONG not in said


def test_it_cannot_be_changed():
    config = check(GOOD, GOOD_ENV)
    with pytest.raises(ValueError, match="frozen"):
        config.server.port = 1


def test_defaults_and_null_sections():
    config = check("gwcore: 1\nstores:\nupstreams:\nmodels:\nstack:\nserver:\n")
    assert config == check("gwcore: 1\n")
    assert config.stores == {"memory": "memory:", "book": "sqlite:///gwcore.db"}
    assert config.server.port == 4000


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_an_empty_stack_on_loopback(host):
    assert is_loopback(host)
    assert check(f'gwcore: 1\nserver: {{host: "{host}"}}\n').server.host == host


def test_an_empty_stack_that_says_it_is_open():
    assert check("gwcore: 1\nserver: {host: 0.0.0.0, open: true}\n").server.open


@pytest.mark.parametrize(
    "settings",
    [
        "token: ${KEY}",
        f"token: {CANARY}-in-the-file",
        "plain: ${KEY}",
        "tokens: ${KEY}",
        "tokens: {a: {b: ${KEY}}}",
        "one_of: ${KEY}",
        "unknown: ${KEY}",
    ],
)
def test_a_secret_in_a_careless_plugin(settings):
    [problem] = problems(f"gwcore: 1\nstack:\n  - leaky:\n      {settings}\n".replace("{b: ${KEY}}", '{b: "${KEY}"}'))
    shown = str(problem).casefold()
    assert not any(ENV["KEY"][at : at + 8] in shown for at in range(len(ENV["KEY"]) - 7))
    assert (problem.line, problem.plugin) == (4, "leaky")


def test_a_validator_that_crashes():
    [problem] = problems("gwcore: 1\nstack:\n  - leaky: {plain: crash}\n")
    assert "RuntimeError" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "stack:\n  - ${KEY}\n",
        "upstreams:\n  a: {provider: '${KEY}'}\n",
        "upstreams:\n  a: {provider: alpha, base_url: '${KEY}', proxy: '${KEY}', timeout: '${KEY}'}\n",
        "stores: {hot: '${KEY}'}\n",
        "models: {fast: '${KEY}/x'}\n",
        "server: {port: '${KEY}', host: '${KEY}'}\nstack: [auth]\n",
        "stack:\n  - auth: {store: '${KEY}', master_key: '${KEY}'}\n",
        "asgi: ['${KEY}']\n",
    ],
)
def test_a_secret_where_none_belongs(text):
    assert problems("gwcore: 1\n" + text)


def test_a_union_is_one_problem():
    [problem] = problems("gwcore: 1\nstack:\n  - leaky: {one_of: true and false}\n")
    assert "integer" in problem.message
    assert "list" in problem.message


def test_an_unset_variable_is_said_once():
    text = "gwcore: 1\nserver: {port: '${P}', host: '${H}'}\nmodels: {fast: '${M}'}\nstack: []\n"
    found = problems(text, {})
    assert [p.where for p in found] == ["server.port", "server.host", "models.fast"]


def test_errors_belong_to_the_tree():
    with pytest.raises(StackErrors) as caught:
        check("gwcore: 1\nzap: 1\n")
    assert isinstance(caught.value, BadConfig | AssemblyError)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert str(caught.value) == "stack.yaml:2:1: zap: unknown key. Mend: " + caught.value.problems[0].mend


def test_every_field_is_described():
    schema = StackConfig.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model.get("properties", {}).items():
            assert field.get("description"), name


# ── JSON Schema ──────────────────────────────────────────────────────────────────────────────────────────────────────

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float)}


def fits(data, schema, root):
    """Whether data fits a JSON Schema: those keywords that ours uses."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return fits(data, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    kind = schema.get("type")
    checks = [
        kind is None or isinstance(data, TYPES.get(kind, int)),
        not (kind in {"integer", "number"} and isinstance(data, bool)),
        "anyOf" not in schema or any(fits(data, branch, root) for branch in schema["anyOf"]),
        "const" not in schema or data == schema["const"],
        "enum" not in schema or data in schema["enum"],
        not isinstance(data, str) or re.search(schema.get("pattern", ""), data) is not None,
        not isinstance(data, int) or data <= schema.get("maximum", data),
    ]
    if isinstance(data, list) and "items" in schema:
        checks += [fits(item, schema["items"], root) for item in data]
    if isinstance(data, dict):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        checks += [key in data for key in schema.get("required", [])]
        checks += [fits(value, properties.get(key, rest), root) for key, value in data.items()]
    return all(checks)


def test_the_schema_accepts_what_is_good():
    schema = json.loads(json.dumps(json_schema(Registry())))
    assert fits(load(GOOD).data, schema, schema)
    text = json.dumps(schema)
    assert all(f'"#/$defs/{name}"' in text for name in ("Auth", "RateLimit", "Rule", "When"))
    assert set(re.findall(r'"#/\$defs/(\w+)"', text)) <= set(schema["$defs"])


@pytest.mark.parametrize(
    "name",
    [
        "unknown_top_level_key",
        "unknown_server_key",
        "unknown_plugin",
        "unknown_setting",
        "missing_option",
        "missing_provider",
        "unknown_provider",
        "unknown_upstream_key",
        "nested_rule",
        "wrong_version",
        "missing_version",
        "wrong_sections",
        "entry_shapes",
        "bad_server",
    ],
)
def test_the_schema_refuses_what_is_broken(name):
    schema = json_schema(Registry())
    file = next(file for file in BROKEN if file.stem == name)
    assert not fits(load(file).data, schema, schema)


def test_the_schema_of_nothing_installed():
    class Bare(Registry):
        plugins = {}

        def provider_names(self):
            return []

    schema = json_schema(Bare())
    assert fits({"gwcore": 1, "stack": []}, schema, schema)
    assert not fits({"gwcore": 1, "upstreams": {"a": {}}}, schema, schema)

"""What ``examples/deploy`` says is so: its stack file assembles, its paths and options exist, and nobody kills before a drain is over."""

import configparser
import json
import re
import secrets
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from gwcore.admin import State, answer
from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.gateway import SETTLE
from gwcore.resources import Resources
from gwcore.server.run import FAREWELL
from gwcore.server.workers import CLOSING

ROOT = Path(__file__).parent.parent
HERE = ROOT / "examples/deploy"
GUIDE = (ROOT / "docs/guide/deploy.md").read_text()
DOCKERFILE = (HERE / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((HERE / "compose.yaml").read_text())
GATEWAY = COMPOSE["services"]["gwcore"]
KUBERNETES = {one["kind"]: one for one in yaml.safe_load_all((HERE / "kubernetes.yaml").read_text())}
POD = KUBERNETES["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
ENVIRONMENT = {
    "GWCORE_BOOK": "postgresql://gwcore:x@postgres:5432/gwcore",
    "GWCORE_HOT": "redis://valkey:6379/0",
    "GWCORE_ADMIN_KEY": secrets.token_hex(32),
}


def unit():
    # a systemd unit says some keys twice
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str
    read.read(HERE / "gwcore.service")
    return read["Service"]


SERVICE = unit()


@pytest.fixture(scope="module")
def stack():
    return assemble(HERE / "stack.yaml", Catalog(), Resources(), ENVIRONMENT)


def seconds(text):
    return int(re.fullmatch(r"(\d+)s?", str(text))[1])


def test_nobody_kills_before_a_stop_is_over(stack):
    """What a worker may take, and the parent that kills one."""
    pause = seconds(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    given = {
        "stop_grace_period: {}s": seconds(GATEWAY["stop_grace_period"]),
        "TimeoutStopSec={}s": seconds(SERVICE["TimeoutStopSec"]),
        "terminationGracePeriodSeconds: {}": POD["terminationGracePeriodSeconds"],
    }
    behind = FAREWELL + SETTLE + CLOSING
    assert behind <= 25, "as the guide and the files say"
    for said, whole in given.items():
        assert whole - (pause if "Period" in said else 0) >= stack.server.drain + 25
        assert f"`{said.format(whole)}`" in GUIDE
    assert f"`server.drain: {stack.server.drain:.0f}s` and 25 s" in GUIDE and f"{pause} s of which" in GUIDE


def test_the_environment_is_all_that_the_stack_file_asks_for(stack):
    asked = set(re.findall(r"\$\{([A-Z_]+)", (HERE / "stack.yaml").read_text()))
    assert set(ENVIRONMENT) < asked == set(GATEWAY["environment"])
    assert set(re.findall(r"\$\{([A-Z_]+)\}", (HERE / "stack.yaml").read_text())) == set(ENVIRONMENT)
    assert {"auth", "ratelimit", "budget", "access_log"} <= {placed.name for placed in stack.placed}


@pytest.mark.parametrize(
    "command",
    [
        ["gwcore", *json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])],
        ["gwcore", *CONTAINER["args"]],
        shlex.split(SERVICE["ExecStart"]),
    ],
    ids=["Dockerfile", "kubernetes.yaml", "gwcore.service"],
)
def test_commands_have_options_that_there_are(command):
    assert command[0].rpartition("/")[2] == "gwcore" and command[1:3] == ["run", "/etc/gwcore/stack.yaml"]
    gwcore = Path(sys.executable).with_name("gwcore")
    nowhere = ["run", str(HERE / "no.yaml"), *command[3:]]
    done = subprocess.run([gwcore, *nowhere], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode and "no.yaml" in done.stdout + done.stderr and "No such option" not in done.stderr


def test_ports_and_probes_are_the_gateway_s(stack):
    assert GATEWAY["ports"] == [f"127.0.0.1:{stack.server.port}:{stack.server.port}"]
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"http": stack.server.port, "metrics": 9090}
    probes = {name: probe["httpGet"] for name, probe in CONTAINER.items() if name.endswith("Probe")}
    assert {name: probe["port"] for name, probe in probes.items()} == dict.fromkeys(probes, "http")
    assert [probes[f"{name}Probe"]["path"] for name in ("startup", "liveness", "readiness")] == [
        *("/livez", "/livez", "/readyz")
    ]
    assert f"'127.0.0.1', {stack.server.port}" in DOCKERFILE and f"EXPOSE {stack.server.port}\n" in DOCKERFILE
    for path in ("/livez", "/readyz"):
        assert answer("GET", path, stack, State())[0] == 200


def test_the_health_check_is_python():
    check = json.loads(re.search(r"HEALTHCHECK .*\\\n  CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    assert "/readyz" in check[2]


def test_what_is_copied_into_the_image_is_there():
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in shlex.split(line)[:-1]
    ]
    offered = (HERE / "Dockerfile.dockerignore").read_text().split()
    assert copied and all((ROOT / source).exists() and f"!{source}" in offered for source in copied)
    members = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
    assert all(member.removesuffix("/*") in copied for member in members), "uv.lock names them all"
    build = GATEWAY["build"]
    assert (HERE / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]) == HERE / "Dockerfile"
    for named in re.findall(r"examples/deploy/[\w./]+", GUIDE):
        assert (ROOT / named).exists(), named


def test_who_it_runs_as_may_write_where_it_writes():
    user = POD["securityContext"]["runAsUser"]
    assert POD["securityContext"]["fsGroup"] == user and f"USER {user}:{user}\n" in DOCKERFILE
    state = re.search(r"^WORKDIR (/var.*)$", DOCKERFILE, re.MULTILINE)[1]
    assert f"-o {user} -g {user} -m 0700 {state}\n" in DOCKERFILE
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert {state, "/tmp", "/etc/gwcore"} == mounted
    assert f"gwcore:{state}" in GATEWAY["volumes"] and GATEWAY["tmpfs"] == ["/tmp"]
    assert GATEWAY["read_only"] and CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert SERVICE["WorkingDirectory"] == f"%S/{SERVICE['StateDirectory']}" == "%S/gwcore"
    assert SERVICE["ExecReload"] == "/bin/kill -HUP $MAINPID"

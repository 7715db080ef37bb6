"""What users install: wheels of every distribution, in a fresh venv, without the rest of the workspace."""

import os
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from gwcore import __version__
from gwcore.template import create_plugin

ROOT = Path(__file__).parent.parent
UV = [str(Path(sys.executable).with_name("uv"))]


def run(*command, **options):
    env = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"}}
    env["UV_SYSTEM_CERTS"] = "true"
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=env, timeout=200, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_wheels_install_and_check_alone(tmp_path):
    wheels = tmp_path / "wheels"
    run(*UV, "build", "--quiet", "--all-packages", "--wheel", "--out-dir", wheels, cwd=ROOT)
    built = sorted(wheels.glob("*.whl"))
    members = sorted(folder.name for folder in ROOT.glob("plugins/*/") if (folder / "pyproject.toml").exists())
    assert [wheel.name.split("-")[0] for wheel in built] == sorted(
        ["gwcore", "gwcore_tokencount", *(f"gwcore_{name}" for name in members)]
    )
    for wheel in built:
        names = zipfile.ZipFile(wheel).namelist()
        top = {name.split("/")[0] for name in names}
        assert top == {wheel.name.split("-")[0], next(name for name in top if name.endswith(".dist-info"))}
        assert any(name.endswith("py.typed") for name in names) and not any(name.endswith(".pth") for name in names)
    run(*UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(
        *UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        *(w for w in built if w.name.split("-")[0] in {"gwcore", "gwcore_providers"}),
    )
    gwcore = tmp_path / "venv/bin/gwcore"
    assert "gwcore-providers" in run(gwcore, "plugins")
    assert "sound" in run(gwcore, "check", ROOT / "examples/quickstart/stack.yaml")


def test_each_distribution_asks_for_the_minor_version_it_was_written_for(tmp_path):
    """Before 1.0 a minor version may change the hooks: pip must refuse the mixture, not the user's first request."""
    ours = Version(__version__)
    following = f"{ours.major}.{ours.minor + 1}.0"
    made = create_plugin("stamp", tmp_path)
    files = [ROOT / "pyproject.toml", made / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    for file in files:
        project = tomllib.loads(file.read_text())["project"]
        listed = [*project["dependencies"], *chain.from_iterable(project.get("optional-dependencies", {}).values())]
        asked = [
            Requirement(line) for line in listed if line.startswith("gwcore") and project["name"] != line.split("[")[0]
        ]
        assert asked, file
        for one in asked:
            assert str(ours) in one.specifier, (file, one)
            assert following not in one.specifier, (file, one)

"""Converts a ``config.yaml`` to a stack file and a finding per key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gwcore_litellm.deployments import read_models
from gwcore_litellm.draft import Draft, written
from gwcore_litellm.findings import Finding, Status
from gwcore_litellm.router import Router, read_defaults
from gwcore_litellm.settings import read_general, read_litellm, read_sections
from gwcore_litellm.source import Config
from gwcore_litellm.watchers import read_callbacks

_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def imported(path: Path) -> tuple[str, list[Finding]]:
    """The text of the stack file, and the findings in the order of the file.

    Raises:
        BadConfig: the file, or one that it includes, cannot be read, is not YAML or is not a mapping.
    """
    config, draft = Config(path), Draft()
    read_models(config, draft, read_defaults(config))
    settings = config.section("litellm_settings")
    Router(config, draft).read(settings)
    read_callbacks(config, draft, settings)
    read_litellm(config, draft, settings)
    read_general(config, draft, config.section("general_settings"))
    read_sections(config)
    findings = config.findings
    return written(draft, _head(path, findings)), findings


def _head(path: Path, findings: Iterable[Finding]) -> list[str]:
    counted = Counter(finding.status for finding in findings)
    summary = ", ".join(f"{counted[status]} {status}" for status in Status if counted[status])
    return [
        f"Made of {path.name} by gwcore import litellm ({summary}).",
        "gwcore check says what is still wrong with it.",
    ]


def variables(text: str) -> list[str]:
    """Names of the environment variables that a stack file needs, sorted."""
    return sorted(set(_REFERENCE.findall(text)))

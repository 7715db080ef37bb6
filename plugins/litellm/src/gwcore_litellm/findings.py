"""Findings: how each key of the imported file was converted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How much of a key's meaning the stack file keeps."""

    EXACT = "exact"  # gwcore does the same, or needs nothing for it
    APPROXIMATE = "approximate"  # nearly; the finding says what differs
    MANUAL = "manual"  # the user must do what the finding says
    UNSUPPORTED = "unsupported"  # gwcore has no equivalent
    ERROR = "error"  # LiteLLM does not do it either: the key is misspelt, misplaced or contradicts another


@dataclass(frozen=True, slots=True)
class Finding:
    """One key, and how it was converted. Contains no value of the file, which may be secret.

    Attributes:
        file: its name, as given.
        line: 1-based, in that file.
        where: dotted path, such as ``model_list.0.litellm_params.rpm``.
        said: what it became, what differs, or what to do.
    """

    status: Status
    file: str
    line: int
    where: str
    said: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.status}: {self.where}: {self.said}"

"""What became of each key of the file that is imported."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How much of a key's meaning the stack file keeps."""

    EXACT = "exact"  # the same happens here, or nothing is needed for it
    APPROXIMATE = "approximate"  # nearly; the finding says what differs
    MANUAL = "manual"  # somebody must do what the finding says
    UNSUPPORTED = "unsupported"  # nothing here does it
    ERROR = "error"  # LiteLLM does not do it either: the key is misspelt, misplaced or contradicts another


@dataclass(frozen=True, slots=True)
class Finding:
    """One key, and what became of it. Holds no value of the file: it may be a secret.

    Attributes:
        file: as it was named.
        line: 1-based, in that file.
        where: dotted path, such as ``model_list.0.litellm_params.rpm``.
        said: what it became, what differs, or what is to be done.
    """

    status: Status
    file: str
    line: int
    where: str
    said: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.status}: {self.where}: {self.said}"

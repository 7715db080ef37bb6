"""How many processes serve this stack on this machine, and the folder they share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COUNT_ENV: Final = "GWCORE_WORKERS"
"""Number of workers; set by ``gwcore run``. Other process managers are recognised without it."""

FOLDER_ENV: Final = "GWCORE_WORKERS_DIR"
"""A folder shared by exactly the workers of one gateway; set by ``gwcore run --workers``."""

_FLAG = re.compile(r"(?:--workers|-w)(?:=|\s+|(?<=-w))(\d+)(?=\s|$)")


@dataclass(slots=True, frozen=True)
class Workers:
    """The processes that serve one stack on one machine.

    Attributes:
        count: how many there are.
        folder: exists as long as they do, is used only by them, and is empty when the first one starts; ``None`` if
            there is none.
    """

    count: int = 1
    folder: Path | None = None

    @classmethod
    def here(cls, env: Mapping[str, str] = os.environ, argv: Sequence[str] | None = None) -> Workers:
        """As set by ``gwcore run``; else from ``--workers N`` of the server that runs us or ``WEB_CONCURRENCY``."""
        folder = env.get(FOLDER_ENV)
        shared = Path(folder) if folder else None
        flag = _FLAG.search(" ".join(sys.argv if argv is None else argv))
        for found in (env.get(COUNT_ENV), flag[1] if flag else None, env.get("WEB_CONCURRENCY")):
            if found is not None and found.isdigit() and int(found) > 0:
                return cls(int(found), shared)
        return cls(1, shared)

"""How much memory this process may use: as limited by its control groups (a container's, systemd's ``MemoryMax``), else the machine's."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from gwcore.workers import Workers

SHARE: Final = 8
"""Bodies take this part of the memory at most. A call needs up to four times its body: raw, parsed, as sent, and in between."""


def usable(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes, or ``None`` if that cannot be found out.

    Control groups of both versions, see cgroups(7): each line of ``own`` is ``id:controllers:path``, version 2 has no
    controllers. Inside a container the group's own folder may be the root.
    """
    limits = []
    with suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, file = (cgroups / "memory", "memory.limit_in_bytes") if controllers else (cgroups, "memory.max")
            group = PurePosixPath(path)
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max" is no limit
                    limits.append(int((root / folder.relative_to("/") / file).read_text()))
    return min(limits, default=None)


def for_bodies(setting: int | str | None) -> int | None:
    """The bytes that ``server.body_memory`` allows this worker; ``None`` for no limit."""
    if setting is None or isinstance(setting, int):
        return setting
    memory = usable()
    return None if memory is None else memory // (SHARE * Workers.here().count)

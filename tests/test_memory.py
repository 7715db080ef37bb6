"""How much memory there is, as the kernel tells it: control groups of both versions, and the machine."""

import pytest

from gwcore import memory as module
from gwcore.memory import SHARE, for_bodies, usable
from gwcore.workers import COUNT_ENV

MACHINE = usable(own=module.Path("/nowhere"))
V2 = "0::/system.slice/gwcore.service\n"
V1 = "5:cpu,cpuacct:/a\n4:memory:/docker/c1\n1:name=systemd:/a\n0::/\n"


def told(folder, own, **limits):
    """``limits``: contents of the group's files, with ``__`` for a slash."""
    (folder / "own").write_text(own)
    for path, limit in limits.items():
        file = folder / path.replace("__", "/")
        file = file.with_name(file.name.replace("_max", ".max").replace("memory_limit", "memory.limit"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return usable(folder, folder / "own")


@pytest.mark.parametrize(
    ("own", "limits", "bytes_"),
    [
        (V2, {"system.slice__gwcore.service__memory_max": 512 << 20}, 512 << 20),
        (V2, {"system.slice__gwcore.service__memory_max": "max", "system.slice__memory_max": 300 << 20}, 300 << 20),
        (V2, {"system.slice__gwcore.service__memory_max": "max"}, MACHINE),
        ("0::/\n", {"memory_max": 1 << 30}, 1 << 30),  # in a container
        (V1, {"memory__docker__c1__memory_limit_in_bytes": 256 << 20}, 256 << 20),
        (V1, {"memory__memory_limit_in_bytes": 256 << 20}, 256 << 20),  # in a container that sees the host's path
        (V1, {"memory__memory_limit_in_bytes": 9223372036854771712}, MACHINE),
        ("0::/../../other\n", {}, MACHINE),  # a group outside of the container's namespace
        ("nonsense\n", {}, MACHINE),
        ("", {}, MACHINE),
    ],
)
def test_the_lowest_limit_counts(tmp_path, own, limits, bytes_):
    assert told(tmp_path, own, **limits) == bytes_


def test_it_is_shared_among_the_workers_unless_the_stack_says_how_much(monkeypatch):
    monkeypatch.setattr(module, "usable", lambda: 1 << 30)
    monkeypatch.setenv(COUNT_ENV, "4")
    assert for_bodies("auto") == (1 << 30) // SHARE // 4
    assert (for_bodies(5), for_bodies(None)) == (5, None)
    monkeypatch.setattr(module, "usable", lambda: None)
    assert for_bodies("auto") is None

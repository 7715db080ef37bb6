"""The file system of a SQLite file, and copies of the file."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from gwcore.errors import BadConfig

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset({
    "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
})  # fmt: skip
"""Types of file systems on which SQLite's locks and shared memory do not work: https://www.sqlite.org/useovernet.html

``9p`` is not among them: a sandbox (gVisor) reports its own disk as such.
"""


def file_system(path: Path) -> str:
    """The type of the file system of ``path``, such as ``ext4``; empty if unknown (not on Linux)."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    path, best, found = path.resolve(), -1, ""
    for line in lines:
        mounted, _, source = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mounted.split(" ")[4]))
        if len(point.parts) >= best and path.is_relative_to(point):  # a later mount covers earlier ones
            best, found = len(point.parts), source.split(" ")[0]
    return found


def refuse_network(path: Path) -> None:
    """Raises ``BadConfig`` if the file would be on a network file system."""
    kind = file_system(path)
    if kind in NETWORK:
        raise BadConfig(
            f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold and money could be spent twice: "
            "put it on a local disk, or use a postgresql: store"
        )


def copy_into(db: sqlite3.Connection, to: Path) -> None:
    """Copy a consistent snapshot of ``db``, checked, or leave no file. Others may write meanwhile.

    Raises ``OSError`` (``FileExistsError``: nothing is overwritten), ``sqlite3.Error``.
    """
    if to.exists():
        raise FileExistsError(f"{to}: this file exists already; choose another path")
    part = to.with_name(f"{to.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with closing(sqlite3.connect(part)) as copy:
            db.backup(copy)
            if found := damage(copy):
                raise sqlite3.DatabaseError(found[0])
        os.fsync(descriptor)
        part.replace(to)
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)


def damage(db: sqlite3.Connection) -> list[str]:
    """Damage to the file, as far as reading all of it shows."""
    try:
        return [text for (text,) in db.execute("PRAGMA quick_check(20)") if text != "ok"]
    except sqlite3.DatabaseError as error:
        return [str(error)]

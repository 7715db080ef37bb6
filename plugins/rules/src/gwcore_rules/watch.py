"""Polls a file, and reads it again once two consecutive looks find the same change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from gwcore.errors import BadConfig
from gwcore_rules.book import Book

_Stamp = tuple[int, int, int] | None
_log = structlog.get_logger("gwcore.rules")


class Watched:
    """A polled file; inotify would miss changes of network file systems and mounted ConfigMaps.

    Attributes:
        problems: those of the latest edit, one per line and place; empty if it is in force.
    """

    def __init__(self, path: str, read: Callable[[str], Book]) -> None:
        self._path = path
        self._read = read
        self._seen = self._before = self._stamp()
        self.problems: list[str] = []

    def _stamp(self) -> _Stamp:
        try:
            found = Path(self._path).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def look(self, *, settled: bool = True) -> Book | None:
        """The book of a changed file; ``None`` if it has not changed or is invalid. Blocks.

        With ``settled``, a change must be seen twice, unchanged: the file may still be being written.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            self._before = stamp
            return None
        if settled and stamp != self._before:
            self._before = stamp
            return None
        try:
            book = self._read(self._path)
        except BadConfig as error:
            self._refused(error)
            book = None
        except Exception as error:  # whatever the reader raises for an edit, the rules in force stay
            self._refused(BadConfig(f"{self._path}: cannot be read: {type(error).__name__}"))
            book = None
        else:
            self.problems = []
        self._seen = stamp
        return book

    def _refused(self, error: BadConfig) -> None:
        self.problems = error.message.splitlines()
        _log.error("rules refused; those before stay in force", problems=self.problems)

"""The ingress table: ``(method, path)`` → dialect and route. One look-up for the hot paths, patterns for the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain

from gwcore.dialect import Dialect, Route
from gwcore.wire.transport import Headers

Match = tuple[Dialect, Route, Mapping[str, str]]
_SEGMENTS = 8  # at most so many of a base URL's are taken off: each is a look-up
_OTHERS = frozenset({"upload", "fim", "agents"})
"""What another operation begins with that ends alike: Google's uploads, Mistral's completions of code and of agents."""
_HAVING = frozenset(
    {"agents", "assistants", "batches", "completions", "containers", "conversations", "evals", "files", "jobs", "responses", "threads", "vector_stores"}
)  # fmt: skip
"""Things at vendors that have an id, and behind it things of their own: ``/v1/vector_stores/{id}/files``."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _pattern(route: Route) -> re.Pattern[str]:
    """``{model}`` may hold slashes and ends where the literal text goes on; any other name is one segment."""
    out, at, path = f"(?:{'|'.join(map(re.escape, route.prefixes))})", 0, route.path
    for match in _PLACEHOLDER.finditer(path):
        out += re.escape(path[at : match.start()])
        out += f"(?P<{match[1]}>{'.+' if match[1] == 'model' else '[^/:]+'})"
        at = match.end()
    return re.compile(out + re.escape(path[at:]) + r"\Z")


class Ingress:
    """Built once from the routes of all dialects, and those of plugins.

    Args:
        dialects: all that are spoken.
        more: routes that plugins answer, each with the dialect it is understood in.
    """

    def __init__(self, dialects: Iterable[Dialect], more: Iterable[tuple[Dialect, Route]] = ()) -> None:
        self._exact: dict[tuple[str, str], list[tuple[Dialect, Route]]] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Dialect, Route]] = []
        own = ((dialect, route) for dialect in dialects for route in dialect.routes)
        for dialect, route in chain(own, more):
            if "{" in route.path:
                self._patterns.append((route.method, _pattern(route), dialect, route))
                continue
            for prefix in route.prefixes:
                self._exact.setdefault((route.method, prefix + route.path), []).append((dialect, route))
        for found in self._exact.values():
            found.sort(key=lambda pair: pair[1].header is None)  # who asks for a header is asked first
        self._patterns.sort(key=lambda pattern: pattern[3].header is None)

    def find(self, method: str, path: str, headers: Headers) -> Match | None:
        """The dialect and route for this address; ``path`` is the decoded path below the mount point."""
        exact = self._exact.get((method, path))
        if exact is not None:
            for dialect, route in exact:
                if route.header is None or _has(headers, route.header):
                    return dialect, route, {}
            return None
        for verb, pattern, dialect, route in self._patterns:
            if verb == method and (match := pattern.match(path)) and (not route.header or _has(headers, route.header)):
                params = match.groupdict()
                # a custom method (https://google.aip.dev/136): two of them may share one operation
                if ":" in route.path:
                    params["verb"] = route.path.rpartition(":")[2]
                return dialect, route, params
        return None

    def meant(self, method: str, path: str, headers: Headers) -> tuple[Match, str] | None:
        """What a client with too long a base URL meant: the match for the end of the path, and that end.

        ``/v1/v1/messages`` is ``/v1/messages``; double and trailing slashes are ignored.
        """
        parts = [part for part in path.split("/") if part]
        for at in range(min(len(parts), _SEGMENTS)):
            if _OTHERS.intersection(parts[:at]) or (at > 1 and parts[at - 2] in _HAVING):
                return None
            end = "/" + "/".join(parts[at:])
            if end != path and (found := self.find(method, end, headers)) is not None:
                return found, end
        return None

    def methods(self, path: str) -> list[str]:
        """The methods that would have matched, for the message of a 404."""
        found = {method for method, exact in self._exact if exact == path}
        found.update(method for method, pattern, _, _ in self._patterns if pattern.match(path))
        return sorted(found)


def _has(headers: Headers, name: str) -> bool:
    wanted = name.encode()
    return any(key == wanted for key, _ in headers)

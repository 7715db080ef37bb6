"""Namespaces: groups of the client's tools, as Codex has for each MCP server and for its agents. No other dialect has them.

Elsewhere a tool of one goes by a single name made of both, and its calls come back with namespace and name apart again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gwcore.chat import Tool, ToolCall
from gwcore.toolnames import fitted

SPACE = "namespace"
Spaces = dict[str, tuple[str, str]]


def joined(space: str, name: str) -> str:
    """One name for both, in letters and of a length that every vendor takes."""
    return fitted(f"{space}{name}" if space.endswith("_") else f"{space}__{name}", f"{space}/{name}")


def spaces(document: dict[str, Any]) -> Spaces:
    """What a request's namespaces hold: one name for both → namespace and name."""
    tools = document.get("tools")
    groups = [tool for tool in tools if _is_group(tool)] if isinstance(tools, list) else []
    return {
        joined(group["name"], tool["name"]): (group["name"], tool["name"])
        for group in groups
        for tool in group["tools"]
        if isinstance(tool, dict) and isinstance(tool.get("name"), str)
    }


def _is_group(tool: Any) -> bool:
    return (
        isinstance(tool, dict)
        and tool.get("type") == SPACE
        and isinstance(tool.get("name"), str)
        and isinstance(tool.get("tools"), list)
    )


def inside(group: dict[str, Any], tools: list[Tool]) -> Iterator[Tool]:
    """The tools of a group by names of their own; the first tells what the group is for."""
    head = {key: value for key, value in group.items() if key != "tools"}
    about = group.get("description")
    for at, tool in enumerate(tools):
        shown = (
            f"{tool.description or ''}\n\n({group['name']}: {about})".lstrip() if about and not at else tool.description
        )
        own = {"name": tool.name, "description": tool.description}
        yield replace(
            tool, name=joined(group["name"], tool.name), description=shown, extra={**tool.extra, SPACE: (head, own)}
        )


def grouped(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The written tools of this dialect's own request, with those of a group in it again."""
    out: list[dict[str, Any]] = []
    last: Any = None
    for made in tools:
        if (of := made.pop(SPACE, None)) is None:
            last = None
            out.append(made)
            continue
        head, own = of
        if head is not last:
            out.append({**head, "tools": []})
            last = head
        out[-1]["tools"].append({**made, **{key: value for key, value in own.items() if value is not None}})
    return out


def together(call: ToolCall, known: Spaces) -> ToolCall:
    """A call of a history by the one name that its tool goes by. One that names another namespace (tool search has them) is as it was."""
    space = call.extra.get(SPACE)
    name = joined(space, call.name) if isinstance(space, str) else ""
    return replace(call, name=name, extra={**call.extra, "name": call.name}) if name in known else call


def apart(call: ToolCall, known: Spaces, dialect: str) -> ToolCall:
    """A call by its own name and namespace, where it is of a tool in one."""
    found = known.get(call.name)
    if found is None:
        return call
    extra = {**call.extra, SPACE: found[0]} if call.dialect == dialect else {SPACE: found[0]}
    return replace(call, name=found[1], dialect=dialect, extra=extra)

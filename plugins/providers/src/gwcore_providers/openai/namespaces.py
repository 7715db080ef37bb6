"""Namespaces: groups of tools, which Codex uses for MCP servers and for its agents. Only ``openai.responses`` has them.

For other dialects a tool's namespace and name are joined to one name; in its calls they are separated again.
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
    """One name for both, in characters and of a length that every vendor accepts."""
    return fitted(f"{space}{name}" if space.endswith("_") else f"{space}__{name}", f"{space}/{name}")


def spaces(document: dict[str, Any]) -> Spaces:
    """The tools in a request's namespaces: joined name → namespace and name."""
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
    """The tools of a group under their joined names; the first one's description includes the group's."""
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
    """The written tools of a request in this dialect, with the tools of each group put back into it."""
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
    """A call in the history, with its tool's joined name; unchanged if its namespace is unknown (from tool search)."""
    space = call.extra.get(SPACE)
    name = joined(space, call.name) if isinstance(space, str) else ""
    return replace(call, name=name, extra={**call.extra, "name": call.name}) if name in known else call


def apart(call: ToolCall, known: Spaces, dialect: str) -> ToolCall:
    """A call with its own name and namespace, if its tool is in one."""
    found = known.get(call.name)
    if found is None:
        return call
    extra = {**call.extra, SPACE: found[0]} if call.dialect == dialect else {SPACE: found[0]}
    return replace(call, name=found[1], dialect=dialect, extra=extra)

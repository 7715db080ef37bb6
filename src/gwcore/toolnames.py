"""Names of tools, in letters and of a length that the upstream takes; its calls come back by the client's names.

Anthropic takes 128 characters, Google dots and colons, the others 64 letters: what an agent calls the tools of its MCP servers is
made for its own vendor, and a single name that is too long has the whole request refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from gwcore.chat import ChatRequest, ToolCall, ToolResult

LONGEST = 64
_ODD = re.compile(r"[^a-zA-Z0-9_-]")


def fitted(name: str, of: str = "", longest: int = LONGEST) -> str:
    """A name in letters that every vendor takes; one that is too long ends in a digest of it, or of what it was made ``of``."""
    made = _ODD.sub("_", name)
    return made if len(made) <= longest else digested(made, of or name, longest)


def digested(made: str, of: str, longest: int = LONGEST) -> str:
    """A name that no other has."""
    return f"{made[: longest - 9]}_{hashlib.sha256(of.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def fit(request: ChatRequest, longest: int) -> dict[str, str]:
    """Rename, wherever they stand, the tools whose names the upstream would refuse. Returns the new names → the client's."""
    offered = [tool.name for tool in request.tools if not tool.server]
    called = [part for message in request.messages for part in message.parts if isinstance(part, ToolCall | ToolResult)]
    names = dict.fromkeys(offered + [part.name for part in called if part.name and not getattr(part, "server", False)])
    new: dict[str, str] = {}
    for name in names:
        made = fitted(name, longest=longest)
        if made != name:
            new[name] = digested(made, name, longest) if made in names or made in new.values() else made
    if not new:
        return new
    request.tools = [replace(tool, name=new.get(tool.name, tool.name)) for tool in request.tools]
    if (choice := request.tool_choice) is not None:
        request.tool_choice = replace(choice, names=tuple(new.get(name, name) for name in choice.names))
    for part in called:
        if part.name is not None:
            part.name = new.get(part.name, part.name)
    return {made: name for name, made in new.items()}

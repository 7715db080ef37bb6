"""``gwcore import litellm``: makes a stack file from LiteLLM's ``config.yaml``."""

from typing import Any

from gwcore.hookspecs import hookimpl


@hookimpl
def gwcore_commands() -> list[Any]:
    """``gwcore import``."""
    from gwcore_litellm.cli import importing  # noqa: PLC0415 - an optional part: a gateway needs no command line

    return [importing]

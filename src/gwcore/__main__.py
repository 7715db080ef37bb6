"""``python -m gwcore`` is ``gwcore``."""

from gwcore.cli import app

app(prog_name="gwcore")

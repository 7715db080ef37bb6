"""``python -m gwcore`` is ``gwcore``."""

from gwcore.cli import main

main()

"""An LLM gateway as a framework: a small core, and plugins assembled from a stack file."""

from importlib.metadata import version

__version__ = version("gwcore")

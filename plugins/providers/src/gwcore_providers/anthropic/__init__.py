"""anthropic: its dialects."""

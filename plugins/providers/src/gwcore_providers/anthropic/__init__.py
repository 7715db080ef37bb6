"""anthropic: dialects and what belongs to them."""

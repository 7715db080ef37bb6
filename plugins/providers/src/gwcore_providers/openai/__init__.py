"""openai: dialects and what belongs to them."""

"""gemini: dialects and what belongs to them."""

"""demo: dialects and what belongs to them."""

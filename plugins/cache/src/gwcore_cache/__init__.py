"""Response cache for gwcore."""

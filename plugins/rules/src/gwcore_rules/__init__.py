"""Model-selection rules for gwcore."""

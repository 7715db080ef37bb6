"""Exact rate limits for gwcore: requests, tokens, parallel calls."""

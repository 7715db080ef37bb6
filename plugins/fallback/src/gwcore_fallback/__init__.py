"""Fallback routing for gwcore: chains, health, retries, circuit breakers."""

"""Hugging Face's text-embeddings-inference."""

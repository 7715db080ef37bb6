"""OpenAI's dialects and their codecs."""

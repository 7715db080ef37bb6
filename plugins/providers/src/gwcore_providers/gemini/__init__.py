"""gemini: its dialects."""

"""vertex: Vertex AI and its credentials."""

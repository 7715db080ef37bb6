"""The offline demo provider."""

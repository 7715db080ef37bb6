"""Is translation faithful? The recordings' own requests, replies and digests are the oracle."""

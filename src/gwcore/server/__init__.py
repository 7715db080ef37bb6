"""The edge: what ``gwcore run`` puts between the network and the ASGI application. Knows nothing of gateways."""

from gwcore.server.protocol import EdgeLimits, EdgeProtocol, edge_protocol
from gwcore.server.run import serve
from gwcore.server.workers import serve_workers

__all__ = ["EdgeLimits", "EdgeProtocol", "edge_protocol", "serve", "serve_workers"]

"""The stack file's ``server`` reaches the edge."""

from dataclasses import asdict

from gwcore.server import EdgeLimits
from gwcore.serving import edge_limits
from gwcore.stackmodels import ServerConfig

SET = {
    "header_timeout": "3s",
    "body_timeout": "4s",
    "write_timeout": "5s",
    "min_body_rate": "6kB",
    "max_headers": 7,
    "max_head": "8kB",
    "max_connections": 9,
    "max_connections_per_ip": 2,
}


def test_every_limit_of_a_connection_can_be_set():
    limits = edge_limits(ServerConfig.model_validate(SET))
    assert list(asdict(limits).values()) == [3, 4, 5, 6000, 7, 8000, 9, 2]


def test_what_the_file_leaves_out_is_what_the_edge_does_by_itself():
    assert edge_limits(ServerConfig()) == EdgeLimits()

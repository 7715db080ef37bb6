"""What stacks share."""

import asyncio
from collections import Counter

import pytest

from gwcore.errors import BadConfig
from gwcore.resources import Lease, Resources, redis_client
from gwcore.testing import servers


def test_a_store_of_no_known_kind_is_bad_configuration():
    with pytest.raises(BadConfig, match="begins with one of: memory"):
        Lease(Resources()).store("etcd://user:canary@host")


async def test_what_survives_a_reload_need_not_be_closed():
    resources = Resources()
    first, second = Lease(resources), Lease(resources)
    counts = first.once("counts", Counter)
    assert second.once("counts", Counter) is counts
    await first.release()
    await second.release()
    assert not resources.open


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again():
    """Servers and balancers close what is idle; a store that is there must not be taken for one that is away."""
    with servers.redis() as url:
        client, admin = redis_client(url, 1.0), redis_client(url, 1.0)
        assert await client.ping()
        await admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.1)
        assert await client.ping()
        await client.aclose()
        await admin.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:canary@h:port/0",
        "redis://:pass/canary@h:6379/0",
        "redis://:canary@h:6379,i:6379/0",
        "redis://:canary@h/0?sentinel=x",
        "rediss://:canary@h/0?ssl_cert_reqs=x",
    ],
)
def test_a_redis_url_that_the_driver_cannot_read_is_a_sentence(url):
    """It was a traceback, or an outage that nothing ended."""
    with pytest.raises(BadConfig, match="of one server") as caught:
        redis_client(url, 1.0)
    assert "canary" not in caught.value.message


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_redis_url_whose_certificates_cannot_be_read_is_a_sentence(option, tmp_path):
    """The gateway started well, and its store was unreachable for ever: ConnectionError."""
    with pytest.raises(BadConfig, match=f"{option}.* No such file") as caught:
        redis_client(f"rediss://:canary@h/0?{option}={tmp_path}/none.pem", 1.0)
    assert "canary" not in caught.value.message


def test_a_redis_url_with_a_file_that_is_no_certificate_is_a_sentence(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(BadConfig, match="cannot be used"):
        redis_client(f"rediss://h/0?ssl_ca_certs={tmp_path}/ca.pem", 1.0)
    assert redis_client("rediss://h/0?ssl_cert_reqs=none", 1.0)

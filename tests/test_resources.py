"""What stacks share."""

from collections import Counter

import pytest

from gwcore.errors import BadConfig
from gwcore.resources import Lease, Resources


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

"""What stacks share."""

import pytest

from gwcore.errors import BadConfig
from gwcore.resources import Lease, Resources


def test_a_store_of_no_known_kind_is_bad_configuration():
    with pytest.raises(BadConfig, match="begins with one of: memory"):
        Lease(Resources()).store("etcd://user:canary@host")

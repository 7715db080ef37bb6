"""Settings for the test suites of all distributions."""

import os

from hypothesis import HealthCheck, settings

from tests import shortcuts

settings.register_profile(
    "gwcore",
    deadline=None,  # a deadline per example would be a timed assertion
    suppress_health_check=[HealthCheck.too_slow],  # generating data is slow on a busy machine
    # the same tree gives the same result; `make properties` searches for new examples
    derandomize="GWCORE_RANDOM" not in os.environ,
)
settings.load_profile("gwcore")


def pytest_configure() -> None:
    """Here, since some collected modules start stores."""
    shortcuts.take()

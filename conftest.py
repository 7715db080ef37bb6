"""Settings of the whole suite, of every distribution."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gwcore",
    deadline=None,  # one per example is a timed assert
    suppress_health_check=[HealthCheck.too_slow],  # a machine under load is slow to make data, too
    # the same tree gives the same result; `make properties` looks for examples that were never tried
    derandomize="GWCORE_RANDOM" not in os.environ,
)
settings.load_profile("gwcore")

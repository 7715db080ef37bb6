"""Settings of the whole suite, of every distribution."""

from hypothesis import HealthCheck, settings

# a deadline per example is a timed assert; a machine under load is slow to make data, too
settings.register_profile("gwcore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gwcore")

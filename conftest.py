"""Settings for the test suites of all distributions."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
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


@pytest.fixture
async def busy_loop() -> AsyncIterator[float]:
    """Every turn of the test's event loop takes so many seconds, as those of a worker at its limit do."""
    turn = 0.05

    async def turns() -> None:
        while True:
            time.sleep(turn)  # noqa: ASYNC251
            await asyncio.sleep(0)

    task = asyncio.create_task(turns())
    yield turn
    task.cancel()

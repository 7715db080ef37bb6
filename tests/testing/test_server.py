"""A server in the test's own loop."""

import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running


async def test_a_stack_that_does_not_start_fails_its_test_and_not_the_whole_run(caplog):
    """It was a SystemExit through the loop, which ended pytest with all tests behind it."""
    with pytest.raises(RuntimeError, match="the log says why"):
        async with running(Gateway("gwcore: 1\nstack: [{nope: {}}]\n")):
            pass
    assert "no plugin named nope is installed" in caplog.text

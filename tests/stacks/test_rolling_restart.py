"""F19: workers are restarted one after another with SIGTERM, under load: nobody notices."""

import asyncio
import os
import signal

import pytest

from tests.stacks.test_reload import under_load
from tests.test_cli import ended


async def rolled(gateway, number):
    """Every worker that is there now gets the signal, and has a successor before the next one does."""
    for pid in gateway.workers():
        os.kill(pid, number)
        async with asyncio.timeout(30):
            while not ended(pid) or len(gateway.workers()) < 2:
                await asyncio.sleep(0.02)


@pytest.mark.timeout(120)
async def test_no_request_fails_while_the_workers_are_restarted_in_turn(tmp_path):
    async def restart(gateway, _file, done):
        for _ in range(2):
            before = len(done)
            await rolled(gateway, signal.SIGTERM)
            while len(done) < before + 20:
                await asyncio.sleep(0.02)

    done, failed = await under_load(tmp_path / "stack.yaml", restart)
    assert not failed
    assert len(done) > 40


@pytest.mark.timeout(120)
async def test_control_workers_that_are_killed_are_noticed(tmp_path):
    async def restart(gateway, _file, done):
        while len(done) < 10:
            await asyncio.sleep(0.01)
        await rolled(gateway, signal.SIGKILL)

    _, failed = await under_load(tmp_path / "stack.yaml", restart)
    assert failed

"""Several workers: one truth, whoever is asked, and nothing goes back when one is killed."""

import asyncio
import os
import signal
import socket

import httpx2
import pytest
from obs_serving import Serving
from obs_world import STACK, ask, ok
from test_prometheus import numbers, value

from gwcore.errors import BadConfig
from gwcore.testing.upstream import FakeUpstream
from gwcore.workers import Workers
from gwcore_observability.prometheus.registry import folder_of


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def total(port):
    """Calls as the port tells them, on a connection of its own, so that any worker may answer."""
    async with httpx2.AsyncClient(verify=False) as client:
        found = numbers((await client.get(f"http://127.0.0.1:{port}/metrics")).text)
    return value(found, "gwcore_requests_total", status="200"), found


@pytest.mark.timeout(180)  # processes start slowly on a busy machine
async def test_workers_are_summed_and_a_killed_one_takes_nothing_along(tmp_path):
    port = free_port()
    async with FakeUpstream() as up:
        up.default = ok()
        stack = STACK.format(up=up.url, stack="", watch=f"  - prometheus: {{port: {port}}}")
        serving = Serving(stack, tmp_path, "--workers", "2")
        await asyncio.to_thread(serving.__enter__)
        try:
            for _ in range(40):
                assert (await ask(serving.url)).status_code == 200
            counts = [(await total(port))[0] for _ in range(10)]
            assert counts == [40] * 10
            victim = serving.workers()[0]
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(serving.wait_ready)
            seen = []
            for _ in range(20):
                try:
                    assert (await ask(serving.url)).status_code == 200
                    seen.append((await total(port))[0])
                except httpx2.TransportError:  # its connection was the killed worker's
                    continue
            assert seen and seen == sorted(seen) and seen[0] >= 40
            async with asyncio.timeout(10):
                while victim in serving.workers() or len(serving.workers()) < 2:
                    await asyncio.sleep(0.05)
            _, found = await total(port)
            in_flight = [v for (name, _), v in found.items() if name == "gwcore_requests_in_flight"]
            assert in_flight == [0]  # one number, and none of the dead
        finally:
            await asyncio.to_thread(serving.__exit__)


def test_several_workers_without_a_common_folder_are_refused(monkeypatch):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    with pytest.raises(BadConfig, match="PROMETHEUS_MULTIPROC_DIR"):
        folder_of(Workers(3, None), "x")
    assert folder_of(Workers(1, None), "x") is None

"""A credential that expires: one fetch for all, renewed before its end, never in a request's way."""

import asyncio
import math
import time

import pytest

from gwcore.errors import Unreachable
from gwcore_providers import expiring
from gwcore_providers.expiring import Expiring, Unavailable


class Source:
    """Answers as scripted, the last one for ever; a number is how long the value lives."""

    def __init__(self, *script):
        self.script = list(script)
        self.fetched = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        await self.gate.wait()
        self.fetched += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return f"value-{self.fetched}", time.time() + step


@pytest.fixture
async def make(monkeypatch):
    monkeypatch.setattr(expiring, "_SOONEST", 0.01)
    monkeypatch.setattr(expiring, "_LONGEST_PAUSE", 0.02)
    made = []

    def build(source, margin=0.0):
        made.append(Expiring("keys", source, margin))
        return made[-1]

    yield build
    for one in made:
        await one.aclose()
    assert len(asyncio.all_tasks()) == 1


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_nothing_runs_before_the_first_use(make):
    source = Source(math.inf)
    make(source)
    await asyncio.sleep(0)
    assert source.fetched == 0 and len(asyncio.all_tasks()) == 1


async def test_a_thousand_first_requests_are_one_fetch(make):
    source = Source(3600)
    source.gate.clear()
    kept = make(source)
    waiting = [asyncio.ensure_future(kept.get()) for _ in range(1000)]
    await asyncio.sleep(0)
    source.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"value-1"} and source.fetched == 1


async def test_a_client_that_leaves_ends_nobodys_fetch(make):
    source = Source(3600)
    source.gate.clear()
    kept = make(source)
    leaver = asyncio.ensure_future(kept.get())
    stayer = asyncio.ensure_future(kept.get())
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.wait([leaver])
    source.gate.set()
    assert await stayer == "value-1" and source.fetched == 1


async def test_a_warm_request_awaits_nothing(make):
    kept = make(Source(3600))
    await kept.get()
    request = kept.get()
    with pytest.raises(StopIteration) as stopped:  # the coroutine ends at its first step
        request.send(None)
    assert stopped.value.value == "value-1"


async def test_renewed_before_the_end_without_a_request(make):
    source = Source(100, 3600)
    kept = make(source, margin=200)  # the first value is within its margin at once
    assert await kept.get() == "value-1"
    await until(lambda: source.fetched == 2)
    assert await kept.get() == "value-2"


async def test_a_failed_renewal_keeps_what_is_still_valid(make):
    source = Source(100, RuntimeError("secret"), RuntimeError("secret"), 3600)
    kept = make(source, margin=200)
    assert await kept.get() == "value-1"
    await until(lambda: source.fetched == 3)
    assert await kept.get() == "value-1"
    await until(lambda: source.fetched == 4)
    assert await kept.get() == "value-4"


async def test_without_a_value_requests_are_refused_and_the_next_try_mends(make):
    source = Source(RuntimeError("secret"), Unavailable("no profile x"), 3600)
    kept = make(source)
    with pytest.raises(Unreachable) as refused:
        await kept.get()
    assert refused.value.message == "no keys: RuntimeError" and not refused.value.sent
    await until(lambda: source.fetched == 2)
    with pytest.raises(Unreachable, match="no keys: no profile x"):
        await kept.get()
    await until(lambda: source.fetched == 3)
    assert await kept.get() == "value-3"


async def test_refused_at_once_between_two_tries(make, monkeypatch):
    monkeypatch.setattr(expiring, "_LONGEST_PAUSE", 3600.0)
    source = Source(RuntimeError())
    kept = make(source)
    for _ in range(100):
        with pytest.raises(Unreachable):
            await kept.get()
    assert source.fetched == 1


async def test_a_machine_that_slept_fetches_at_once(make, monkeypatch):
    source = Source(3600)
    kept = make(source)
    assert await kept.get() == "value-1"
    later = time.time() + 7200
    monkeypatch.setattr(expiring.time, "time", lambda: later)
    source.script = [7200 + 3600]
    waiting = await asyncio.gather(*(kept.get() for _ in range(50)))
    assert set(waiting) == {"value-2"} and source.fetched == 2


async def test_the_wait_for_the_first_value_ends(make, monkeypatch):
    monkeypatch.setattr(expiring, "PATIENCE", 0.01)
    source = Source(3600)
    source.gate.clear()
    kept = make(source)
    with pytest.raises(Unreachable, match="none arrived in time"):
        await kept.get()
    source.gate.set()
    await until(lambda: source.fetched == 1)
    assert await kept.get() == "value-1"


async def test_what_never_expires_leaves_no_task(make):
    kept = make(Source(math.inf))
    await kept.get()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert await kept.get() == "value-1"


async def test_what_came_expired_is_no_credential(make):
    kept = make(Source(-5))
    with pytest.raises(Unreachable):
        await kept.get()


async def test_a_refused_value_is_doubted_once_a_minute(make, monkeypatch):
    source = Source(3600)
    kept = make(source)
    assert await kept.get() == "value-1"
    kept.doubt()
    await asyncio.sleep(0.01)
    assert source.fetched == 1
    monkeypatch.setattr(expiring, "DOUBT", 0.0)
    kept.doubt()
    assert await kept.get() == "value-1"  # nobody waits for it
    await until(lambda: source.fetched == 2)
    assert await kept.get() == "value-2"

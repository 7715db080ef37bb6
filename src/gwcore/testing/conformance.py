"""``PluginConformance``: tests that every plugin must pass.

Inherit, set the plugin, run pytest::

    class TestMine(PluginConformance):
        kind = MyPlugin
        config = {"header": "x-mine"}
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pluggy
import pytest
from pydantic import ValidationError

from gwcore.call import Attempt, Call, Outcome
from gwcore.errors import RateLimited
from gwcore.hookspecs import EVENTS, check_taps
from gwcore.plugin import Plugin, ring_of
from gwcore.service import Service
from gwcore.testing.fakes import Inner, build, call, release, sent
from gwcore.usage import Usage

_ROW = re.compile(r"^\|\s*`(\w+)`", re.MULTILINE)


def _descriptors() -> int:
    gc.collect()  # so that garbage of earlier tests does not close descriptors between two counts
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0


def _endings() -> list[tuple[Call, Outcome]]:
    """Calls with all kinds of endings: answered, unmetered, without a model, refused, cancelled by the client."""
    unnamed = call()
    unnamed.model = unnamed.document = None
    refused = RateLimited("no", retry_after=1)
    return [
        (call(), Outcome(200, usage=Usage(input=2, output=3))),
        (call(stream=True), Outcome(200)),
        (unnamed, Outcome(200)),
        (call(), Outcome(429, refused)),
        (call(), Outcome(0, cancelled=True)),
    ]


class PluginConformance:
    """Inherit and set ``kind``; every test here then runs against it.

    Attributes:
        kind: the plugin class.
        config: valid settings that exercise the plugin.
        readme: file whose option table (rows that start with a name in backticks) must list every setting, or ``None``.
    """

    kind: ClassVar[type[Plugin]]
    config: ClassVar[dict[str, Any]] = {}
    readme: ClassVar[Path | None] = None

    def held(self, plugin: Plugin) -> int:  # noqa: ARG002 - for overriding
        """How much the plugin holds for calls in flight (slots, holds, leases); must be 0 after all have ended."""
        return 0

    def service(self, plugin: Plugin, inner: Inner) -> Service[Call]:
        """The plugin's layers around ``inner``, both rings."""
        rings = ring_of(plugin)

        async def attempts(made: Call) -> Outcome:
            attempted: Service[Attempt] = inner
            if "attempt" in rings:
                attempted = plugin.attempt_layer(attempted)
            return await attempted(Attempt(made, made.targets[0]))

        service: Service[Call] = attempts
        if "router" in rings:
            assert plugin.router is not None
            service = plugin.router(plugin.attempt_layer(inner))
        return plugin.call_layer(service) if "call" in rings else service

    def run(self, test: Callable[[Plugin], Coroutine[Any, Any, None]]) -> None:
        """Run ``test`` with a started plugin in a separate event loop."""

        async def started() -> None:
            plugin = build(self.kind, self.config)
            try:
                async with plugin.lifespan():
                    await test(plugin)
            finally:
                await release(plugin)

        asyncio.run(started())

    def test_config_forbids_unknown_keys(self) -> None:
        """A typo must not be ignored."""
        with pytest.raises(ValidationError):
            self.kind.Config.model_validate({**self.config, "no_such_key_": 1})

    def test_config_describes_every_field(self) -> None:
        """Reference pages and editors show the descriptions."""
        bare = [name for name, field in self.kind.Config.model_fields.items() if not field.description]
        assert not bare, f"fields without a description: {bare}"

    def test_readme_lists_every_option(self) -> None:
        """The option table lists exactly the fields of the model."""
        if self.readme is not None:
            rows = set(_ROW.findall(self.readme.read_text(encoding="utf-8")))
            assert rows == set(self.kind.Config.model_fields)

    def test_constructing_has_no_side_effect(self) -> None:
        """Assembly may build a plugin only to check it."""

        async def construct() -> None:
            tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
            build(self.kind, self.config)
            assert len(asyncio.all_tasks()) == tasks
            assert _descriptors() == descriptors

        asyncio.run(construct())

    def test_start_and_stop_leave_nothing(self) -> None:
        """No task and no descriptor outlives the plugin."""

        async def cycle() -> None:
            plugin = build(self.kind, self.config)
            tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
            async with plugin.lifespan():
                pass
            await release(plugin)
            assert len(asyncio.all_tasks()) == tasks
            assert _descriptors() == descriptors

        asyncio.run(cycle())

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_call_goes_through(self, stream: bool) -> None:
        """JSON and streams reach the client completely, and nothing stays held."""

        async def test(plugin: Plugin) -> None:
            made = call(stream=stream)
            outcome = await self.service(plugin, Inner())(made)
            assert isinstance(outcome, Outcome), "the layer returned no Outcome: return await inner(call)"
            assert outcome.status == 200
            assert sent(made).ended
            assert self.held(plugin) == 0

        self.run(test)

    def test_errors_pass_by_identity(self) -> None:
        """A layer re-raises errors that it does not handle as the same object."""

        async def test(plugin: Plugin) -> None:
            error = RateLimited("no", retry_after=1)
            with pytest.raises(RateLimited) as caught:
                await self.service(plugin, Inner(error=error))(call())
            assert caught.value is error
            assert self.held(plugin) == 0

        self.run(test)

    @pytest.mark.parametrize("stream", [False, True])
    def test_cancelled_at_every_await_nothing_stays_held(self, stream: bool) -> None:
        """The client may disconnect at any time: cancel at the k-th turn of the loop, for every k."""

        async def test(plugin: Plugin) -> None:
            service = self.service(plugin, Inner())
            for k in range(200):
                task = asyncio.ensure_future(service(call(stream=stream)))
                for _ in range(k):
                    await asyncio.sleep(0 if k < 100 else 0.001)  # a store on a busy machine needs time, not turns
                if task.done():
                    await task
                    break
                task.cancel()
                await asyncio.wait({task})
                await asyncio.sleep(0)
                assert self.held(plugin) == 0, f"something stays held after a cancel at turn {k}"
            else:
                pytest.fail("the layer did not end within 200 turns of the loop")

        self.run(test)

    def test_taps_take_every_event(self) -> None:
        """Taps accept every event: an exception is only counted while serving, but fails this test."""

        async def test(plugin: Plugin) -> None:
            check_taps(plugin)
            for made, outcome in _endings():
                attempt = Attempt(made, made.targets[0])
                attempt.error = RateLimited("no")
                events = {"call": made, "attempt": attempt, "outcome": outcome}
                for name, event in EVENTS.items():
                    if hasattr(plugin, name):
                        getattr(plugin, name)(*(events[p] for p in list(inspect.signature(event).parameters)[1:]))

        self.run(test)

    def test_health_is_json(self) -> None:
        """``GET /health`` serializes it, after the start and after calls."""

        async def test(plugin: Plugin) -> None:
            orjson.dumps(plugin.health())
            await self.service(plugin, Inner())(call())
            orjson.dumps(plugin.health())

        self.run(test)

    def test_concurrent_calls_share_nothing(self) -> None:
        """200 concurrent calls each get a complete answer."""

        async def test(plugin: Plugin) -> None:
            service = self.service(plugin, Inner())
            calls = [call(f"n{n}", stream=n % 2 == 1) for n in range(200)]
            await asyncio.gather(*(service(made) for made in calls))
            assert all(sent(made).ended for made in calls)
            assert self.held(plugin) == 0

        self.run(test)

    def test_serving_never_calls_pluggy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hooks are compiled at assembly."""

        async def test(plugin: Plugin) -> None:
            service = self.service(plugin, Inner())

            def called(*_: Any, **__: Any) -> None:
                raise AssertionError("pluggy was called while serving")

            monkeypatch.setattr(pluggy.HookCaller, "__call__", called)
            await service(call())
            monkeypatch.undo()

        self.run(test)

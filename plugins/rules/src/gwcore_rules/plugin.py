"""The ``rules`` plugin: once per call, before its model's name is resolved, the first rule that fits decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import structlog

from gwcore.call import Call, Outcome
from gwcore.dialect import Dialect, Route
from gwcore.errors import GatewayError
from gwcore.estimate import Estimator
from gwcore.hookspecs import hookimpl
from gwcore.knobs import saying
from gwcore.plugin import Plugin, Setup
from gwcore.provider import Target
from gwcore.service import Service
from gwcore_rules.book import Book, Compiled, inline, read
from gwcore_rules.choose import Choice, Chooser
from gwcore_rules.conditions import reasons
from gwcore_rules.config import RuleFile, RulesConfig
from gwcore_rules.facts import MAX_COST, METADATA, TASK_TYPE, Facts
from gwcore_rules.tell import estimated, lines
from gwcore_rules.watch import Watched

RULE = b"x-gwcore-rule"
PLAIN = "openai.chat"  # the dialect of POST /estimate, and of the mixin
_OURS = (TASK_TYPE, MAX_COST)
_log = structlog.get_logger("gwcore.rules")


class Rules(Plugin):
    """Chooses the model, and sets sampling defaults, by rules that may change at run time."""

    name = "rules"
    Config = RulesConfig
    inside = ("auth",)
    priced = True
    selects = True

    def __init__(self, config: RulesConfig, setup: Setup, clock: Callable[[], float] = time.time) -> None:
        super().__init__(config, setup)
        self.clock = clock
        self.estimator = Estimator()
        self.chooser = Chooser(setup.models, setup.prices, self.estimator, setup.permits)
        self.watched = Watched(config.file, self._read) if config.file is not None else None
        # invalid rules are problems of the stack file: `check` reports them, and the gateway does not start
        if config.file is not None:
            self.book = self._read(config.file)
        else:
            rules = RuleFile(rules=config.rules, timezone=config.timezone)
            self.book = inline(rules, setup.models, setup.dialects)

    def _read(self, path: str) -> Book:
        return read(path, self.setup.models, self.setup.dialects)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Follow changes of the file."""
        await asyncio.to_thread(self._warm, self.book)
        if self.watched is None:
            yield
            return
        task = asyncio.create_task(self._follow(self.watched))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _follow(self, watched: Watched) -> None:
        while True:
            await asyncio.sleep(self.config.reload)
            book = await asyncio.to_thread(watched.look)
            if book is not None and book.digest != self.book.digest:
                await asyncio.to_thread(self._warm, book)
                self.book = book
                _log.info("rules read", rules=len(book.rules), digest=book.digest)

    def refresh(self) -> None:
        """Apply a changed file now; for use outside a gateway. Blocks."""
        book = self.watched.look(settled=False) if self.watched is not None else None
        self.book = book or self.book

    def _warm(self, book: Book) -> None:
        """Look up prices in advance, off the serving loop."""
        for name in book.models:
            for target in self.setup.models.resolve(name):
                self.setup.prices.card(target)

    # ── the call ─────────────────────────────────────────────────────────────────────────────────────────────────

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Choose the model, and name the rule in the reply."""

        async def rules(call: Call) -> Outcome:
            if call.model is not None:
                self._apply(call, self.facts(call))
            return await inner(call)

        return rules

    def facts(self, call: Call) -> Facts:
        """The facts of a call that rules test."""
        return Facts(call, self.config.prefix, self.estimator, self.clock())

    def _apply(self, call: Call, facts: Facts) -> Choice | None:
        rule = self.book.first(facts)
        choice = None
        if rule is not None or facts.auto or facts.cap is not None:
            choice = self.chooser.choose(rule, facts)
            call.model = choice.model
            defaults = self.chooser.sampling(choice)
            if defaults:
                target = self.setup.models.resolve(choice.model)[0]
                document = call.edit()
                knobs = call.dialect.knobs(call.operation, document, target.model)
                for name, value in defaults.items():
                    document.update(saying(document, knobs[name], value))
        if rule is not None:
            call.reply.add_header(RULE, rule.rule.name.encode())
        _without_ours(call)
        return choice

    @hookimpl
    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Learn from a call's usage for later estimates."""
        if outcome.usage is not None and outcome.error is None and len(call.attempts) == 1:
            who = call.principal.id if call.principal is not None else None
            used = outcome.usage.total_in, outcome.usage.total_out
            self.estimator.learn(call.model, who, self.estimator.size(call), used)

    # ── what others see ──────────────────────────────────────────────────────────────────────────────────────────

    def client_routes(self) -> Iterable[tuple[Dialect, Route]]:
        """``POST /estimate``, and every chat address under ``/estimate``."""
        for dialect in self.setup.dialects.values():
            for route in dialect.routes:
                if route.operation != "chat" or dialect.chat is None:
                    continue
                below = tuple(f"/estimate{prefix}" for prefix in route.prefixes)
                yield dialect, replace(route, prefixes=below)
                if dialect.name == PLAIN and route.model == "body":
                    yield dialect, replace(route, path="/estimate")

    async def answer(self, call: Call) -> Outcome:
        """The model that would serve the request, and its estimated cost. Nothing is sent upstream."""
        facts = self.facts(call)
        choice = self.chooser.choose(self.book.first(facts), facts, priced=True)
        body = orjson.dumps(estimated(choice, self.chooser))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await call.reply.commit(200, headers)
        await call.reply.end(body)
        return Outcome(200)

    def names(self) -> Mapping[str, tuple[Target, ...]]:
        """``auto/<task>`` for every task of :meth:`Book.tasks`."""
        resolve = self.setup.models.resolve
        return {
            f"{self.config.prefix}/{task}": tuple(target for name in names for target in resolve(name))
            for task, names in self.book.tasks().items()
        }

    def explain(self, call: Call) -> str | None:
        """Which rule decides, why those before it do not, and the estimated cost of each candidate."""
        facts = self.facts(call)
        rule = self.book.first(facts)
        decided = False
        said = []
        try:
            for one in self.book.rules:
                if one is rule:
                    decided = True
                    said.append(f"{one.rule.name}: decides")
                    said += lines(self.chooser.choose(rule, facts, priced=True))
                elif decided:
                    said.append(f"{one.rule.name}: not asked, a rule before it decides")
                else:
                    said.append(f"{one.rule.name}: no, {'; '.join(_why(one, facts))}")
            if rule is None:
                said += ["no rule decides", *lines(self.chooser.choose(None, facts, priced=True))]
            self._apply(call, facts)
        except GatewayError as error:
            said.append(f"refused: {error.message}")
        return "\n".join(said)

    def health(self) -> dict[str, Any]:
        """The rules in force, and the problems of a rejected edit."""
        problems = self.watched.problems if self.watched is not None else []
        return {"rules": len(self.book.rules), "digest": self.book.digest, "problems": problems}


def _why(one: Compiled, facts: Facts) -> list[str]:
    found = reasons(one.checks, facts)
    if facts.auto and not one.rule.model:
        found.append(f"it names no model for {facts.call.model}")
    return found


def _without_ours(call: Call) -> None:
    """Remove the metadata meant for this plugin from the body, since upstreams reject unknown members."""
    metadata = (call.document or {}).get(METADATA)
    if not isinstance(metadata, dict) or not any(key in metadata for key in _OURS):
        return
    document = call.edit()
    rest = {key: value for key, value in metadata.items() if key not in _OURS}
    if rest:
        document[METADATA] = rest
    else:
        del document[METADATA]

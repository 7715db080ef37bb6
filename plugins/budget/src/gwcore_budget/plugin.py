"""The ``budget`` plugin: money is held for each attempt before anything is sent, and settled whatever happens."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import structlog

from gwcore.admin import STATUS_ENV
from gwcore.call import Attempt, Call, Outcome
from gwcore.errors import BadConfig, BadRequest, ClientError, GatewayError, StoreUnavailable
from gwcore.knobs import saying
from gwcore.outcomes import ending
from gwcore.plugin import Demand, Plugin, Setup
from gwcore.ports import AdminRoute, Sample, Spending
from gwcore.prices import PriceCard
from gwcore.service import Service
from gwcore.sql import migrate
from gwcore.usage import Usage
from gwcore.wire.transport import Headers
from gwcore_budget import reports
from gwcore_budget.accounts import Accounts, Budgets, UnknownPlan
from gwcore_budget.admin.activity import Activity
from gwcore_budget.admin.budgets import Budgets as BudgetRoutes
from gwcore_budget.admin.desk import Desk
from gwcore_budget.admin.spend import Spend
from gwcore_budget.admin.totals import Totals
from gwcore_budget.bound import AS_IT_IS, Bound, Scale, bound, cap, scaled
from gwcore_budget.config import BudgetConfig, BudgetPolicy
from gwcore_budget.early import Streams
from gwcore_budget.export import Exporter
from gwcore_budget.gauges import Gauges, Tally
from gwcore_budget.ledger.group import Unavailable
from gwcore_budget.ledger.home import StoreDown
from gwcore_budget.ledger.homes import LEDGER, folder_of, home_of
from gwcore_budget.ledger.ledger import Ledger, Refused
from gwcore_budget.ledger.ops import POSTED, REAPED, VOIDED, Event, Facts, Hold, Metered, Short, facts, metered
from gwcore_budget.plans import Plans
from gwcore_budget.refusal import (
    DOWN,
    BudgetStoreUnavailable,
    PlanMissing,
    Unpriced,
    dollars,
    exceeded,
    reserved,
    unheld,
)
from gwcore_budget.retention import Retention
from gwcore_budget.window import FOREVER, Window

_log = structlog.get_logger("gwcore.budget")
_UNLIMITED = 600.0
_NO_USAGE = Usage()
_MOST_FACTOR, _MODELS = 64, 4096


Verdict = tuple[int, int, str]
"""How a hold ends: its state, the nano-USD to post, and the reason."""


def judged(held: int | None, card: PriceCard | None, outcome: Outcome, *, final: bool = False) -> Verdict:
    """What an answered attempt costs, by ``card``. ``held``: nano-USD, ``None`` is unmetered. ``final``: the usage is complete."""
    usage = outcome.usage
    if outcome.error is not None and not final:
        # the stream ended with the upstream's own error: what it bills is unknown
        return REAPED, 0, "committed"
    if held is None:
        return POSTED, 0, "unmetered"
    if card is None or usage is None or not usage.billable:
        if held == 0:
            return POSTED, 0, "free"
        return REAPED, 0, "no price" if card is None else "no usage"
    cost = outcome.cost or card.charge(usage)
    if cost.unpriced:
        return POSTED, max(cost.nano, held), "partly unpriced"
    return POSTED, cost.nano, "usage"


class BudgetPlugin(Plugin):
    """Reserves the worst-case cost of each attempt on every budget that applies, and posts the actual cost afterwards."""

    name = "budget"
    Config = BudgetConfig
    Policy = BudgetPolicy
    inside = ("auth", "ratelimit", "cache", "fallback")
    demand = Demand.USAGE
    priced = True
    offers = (Spending,)

    def __init__(self, config: BudgetConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.store = setup.store(config.store)
        self.plans = Plans()
        self.accounts = Accounts(config, self.plans.get, setup.models.names)
        self.plans.changed = self.accounts.forget
        self.desk = Desk(setup, self.accounts, self.plans, lambda: self.ledger)
        self.ledger: Ledger | None = None
        self.tally = setup.once("tally", Tally)
        self.counts = self.tally.counts
        self._factors = self.tally.factors  # see _over
        self._draining = 0
        self._streams = Streams(self.counts)
        self._lingers = setup.key("lingers", bool, own=True)
        self._lengths = setup.key("lengths", dict, own=True)
        self.gauges = Gauges(self.store, self.desk.binding)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the ledger; close it after the last settlement."""
        config: BudgetConfig = self.config
        if self.store.scheme == "memory" and STATUS_ENV in os.environ:
            raise BadConfig(
                "budget: a memory store is lost with the process, and each worker has its own; name a sqlite: or postgresql: store"
            )
        await migrate(self.store, LEDGER)
        ledger = Ledger(
            home_of(self.store, exports=config.export is not None),
            folder_of(self.store, config.journal),
            mode=config.mode,
            chunk=config.grant,
            patience=config.patience,
            on_event=self._event,
            on_over=self._over,
        )
        try:
            await ledger.start()
        except StoreDown as error:
            raise StoreUnavailable("the budget's store does not answer", retry_after=1) from error
        except OSError as error:
            raise BadConfig(
                f"budget: the folder of journals cannot be written ({error.strerror}); set `journal`"
            ) from None
        tasks = [asyncio.create_task(self._watch_plans(ledger))]
        if config.export is not None:
            tasks.append(asyncio.create_task(Exporter(config.export, ledger.home, ledger.group.now, self.counts).run()))
        if config.retain is not None:
            tasks.append(
                asyncio.create_task(Retention(config.retain, ledger.home, ledger.group.now, self.counts).run())
            )
        self.ledger = ledger
        tasks += [asyncio.create_task(self.gauges.looking()), asyncio.create_task(self._streams.looking(ledger))]
        try:
            yield
        finally:
            self.ledger = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.shield(ledger.stop())

    async def _watch_plans(self, ledger: Ledger) -> None:
        while True:
            try:
                await self.plans.refresh(ledger.home)
            except StoreDown:
                pass  # the known plans stay; holds query the store themselves
            await asyncio.sleep(0.5)

    def admin_routes(self) -> Sequence[AdminRoute]:
        """Budgets and reports, in LiteLLM's formats."""
        return [route for part in (BudgetRoutes, Spend, Totals, Activity) for route in part(self.desk).routes()]

    async def spent(self, scope: str, policies: Mapping[str, Mapping[str, Any]]) -> Mapping[str, int]:
        """See :class:`gwcore.ports.Spending`."""
        desk, wanted = self.desk, list(policies)
        main = desk.main_of(scope, {id_: BudgetPolicy.model_validate(policy) for id_, policy in policies.items()})
        try:
            running = await reports.running(desk.home, scope, wanted, desk.now(), main)
            found = {id_: one.posted for id_, one in running.items()}
            others = [id_ for id_ in wanted if id_ not in found and not main.get(id_)]
            column = reports.COLUMNS.get(scope)
            if others and column is not None:
                lines = await reports.sums(desk.home, (column,), reports.Where().among(column, others))
                found |= {id_: sums.spend for (id_,), sums in lines}
        except StoreDown:
            raise BudgetStoreUnavailable(DOWN, retry_after=1, plugin=self.name) from None
        return found

    async def check(self, policy: Mapping[str, Any]) -> None:
        """See :class:`gwcore.ports.Spending`."""
        try:
            await self.plans.refresh(self.desk.home)
        except StoreDown:
            raise BudgetStoreUnavailable(DOWN, retry_after=1, plugin=self.name) from None
        id_ = policy.get("budget_id")
        if id_ is not None and self.plans.get(id_) is None:
            raise BadRequest(f"there is no budget {id_[:200]}; /budget/new creates one")

    def resets(self, policy: Mapping[str, Any]) -> int | None:
        """See :class:`gwcore.ports.Spending`."""
        try:
            text = self.accounts.planned(BudgetPolicy.model_validate(policy)).budget_duration
        except UnknownPlan:
            return None
        if text is None:
            return None
        window = Window.parse(text, self.config.zone)
        end = window.period(self.desk.now()).end
        return None if window.rolling or end == FOREVER else end

    def attempt_layer(self, inner: Service[Attempt]) -> Service[Attempt]:
        """Hold, run the attempt, settle."""
        drain = self.config.on_disconnect == "drain"

        async def budget(attempt: Attempt) -> Outcome:
            ledger, call = self.ledger, attempt.call
            assert ledger is not None, "attempts run inside the lifespan"
            attempt.card = self.setup.prices.card(attempt.target)
            try:
                budgets = self.accounts.of(attempt)
            except UnknownPlan:
                budgets = await self._looked_up(ledger, attempt)
            terms, endless = self._terms(attempt, budgets)
            scale = self._factors.get(attempt.target.model, AS_IT_IS) if self._factors else AS_IT_IS
            amount = self._unbounded(attempt, budgets) if terms is None else scaled(terms.amount, scale)
            hold = ledger.admit(attempt.id, amount, budgets.all, self._facts(attempt, budgets))
            if hold is None:
                cuts = terms is not None and terms.said is not None and budgets.clamps
                least = scaled(terms.least, scale) if terms is not None and cuts else None
                hold = await self._asked(ledger, attempt, budgets, amount, least)
            if terms is None or endless:
                hold.enforced = False
            elif call.stream or not (terms.said and hold.amount == amount):
                self._bind(attempt, budgets, terms, hold, scale, cut=hold.amount != amount)
            linger = partial(self._linger, call) if drain else None
            if drain:
                call.linger = linger
            try:
                outcome = await inner(attempt)
            except BaseException as error:
                self._failed(ledger, hold, attempt, error)
                raise
            finally:
                if drain and call.linger is linger:  # otherwise it belongs to a parallel attempt
                    call.linger = None
            self._ended(ledger, hold, attempt, outcome)
            return outcome

        return budget

    # ── before ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _terms(self, attempt: Attempt, budgets: Budgets) -> tuple[Bound | None, bool]:
        """The attempt's worst case, and whether it covers only part of the possible cost."""
        most = self.config.max_output
        terms = bound(attempt, attempt.card, most)
        if terms is None and budgets.unmetered:
            # priced but unbounded: hold the part that can be bounded, post the actual cost
            return bound(attempt, attempt.card, most, endless=True), True
        return terms, False

    async def _asked(
        self, ledger: Ledger, attempt: Attempt, budgets: Budgets, amount: int | None, least: int | None
    ) -> Hold:
        """Hold at the store: this worker's grants are missing or too small."""
        config: BudgetConfig = self.config
        wait, expires = config.wait if budgets.waits else 0.0, _expires(attempt.call)
        known = self._facts(attempt, budgets)
        try:
            return await ledger.hold(attempt.id, amount, budgets.all, known, least=least, wait=wait, expires=expires)
        except Refused as refused:
            raise self._refusal(refused.short, ledger) from None
        except Unavailable as error:
            self.counts["store_unavailable"] += 1
            raise BudgetStoreUnavailable(unheld(error), retry_after=1, plugin=self.name) from None

    async def _looked_up(self, ledger: Ledger, attempt: Attempt) -> Budgets:
        """The budgets of an attempt, one of which this worker does not know yet."""
        try:
            await self.plans.refresh(ledger.home)  # another worker may have just created it
            return self.accounts.of(attempt)
        except UnknownPlan as unknown:
            self.counts["unknown_plan"] += 1
            said = f"the budget {unknown}, to which the key or its owner refers, does not exist: create it, or remove the budget_id"
            raise PlanMissing(said, plugin=self.name) from None
        except StoreDown:
            self.counts["store_unavailable"] += 1
            raise BudgetStoreUnavailable(DOWN, retry_after=1, plugin=self.name) from None

    def _unbounded(self, attempt: Attempt, budgets: Budgets) -> int | None:
        """Nano-USD to hold for an unbounded attempt. ``None`` holds nothing; its row is marked as unmetered."""
        if budgets.denies:
            self.counts["unpriced_denied"] += 1
            target = attempt.target
            what = target if target.model else f"{attempt.call.operation} of upstream {target.upstream.name!r}"
            raise Unpriced(
                f"the cost of this request to {what} has no known limit, so a budget rejects it: price the model under "
                "`prices` (its context_window, too), bound its tools with max_uses or max_tool_calls, or set `unpriced`",
                plugin=self.name,
            )
        if budgets.default is None:
            self.counts["unmetered"] += 1
        return budgets.default

    def _bind(self, attempt: Attempt, budgets: Budgets, terms: Bound, hold: Hold, scale: Scale, *, cut: bool) -> None:
        """If a limit applies, cap the answer to what is held, and let a stream's hold shrink to the input read."""
        if not budgets.limited:
            hold.enforced = terms.said is not False  # if nothing caps it, it may be as long as the upstream allows
            return
        if terms.per_token and (cut or terms.said is False):
            self._clamp(attempt, terms, hold.amount or 0, scale)
        if attempt.call.stream:
            self._streams.under[hold.id] = hold, attempt, terms, scale

    def _clamp(self, attempt: Attempt, terms: Bound, held: int, scale: Scale) -> None:
        """Lower the request's length limit to what is held."""
        factor, of = scale
        tokens = terms.fitting(held * of // factor)
        if tokens >= terms.tokens and terms.said:
            return
        assert attempt.card is not None
        places = cap(attempt, attempt.card)
        attempt.fields = {**(attempt.fields or {}), **saying(attempt.call.document or {}, places, tokens)}
        self._tell(attempt, tokens)
        if tokens < terms.tokens:
            self.counts["clamped"] += 1
            terms.tokens = tokens

    def _tell(self, attempt: Attempt, tokens: int) -> None:
        """Report the limit of the attempt that answers to the client: ``x-gwcore-max-tokens``."""
        call = attempt.call
        if call.reply.committed:  # an attempt that continues an answer
            return
        lengths = call.get(self._lengths)
        if lengths is None:
            lengths = call[self._lengths] = {}
            call.reply.add_headers(partial(_told, call, lengths))
        lengths[attempt.number] = tokens

    def _facts(self, attempt: Attempt, budgets: Budgets) -> Facts:
        call, card = attempt.call, attempt.card
        tags = self.accounts.tags_of(attempt)
        return facts((
            call.id,
            attempt.number,
            *budgets.who,
            self.accounts.session_of(attempt),
            orjson.dumps(tags).decode() if tags else "[]",
            call.dialect.name,
            call.operation,
            *budgets.what,
            None if card is None else card.origin,
            int(call.stream),
        ))  # fmt: skip

    def _refusal(self, short: Short, ledger: Ledger) -> GatewayError:
        if short.held_only:
            self.counts["reserved"] += 1
            return reserved(short, ledger.lasting, self.name)
        self.counts["exceeded"] += 1
        return exceeded(short, self.config.status, self.name)

    # ── after ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _failed(self, ledger: Ledger, hold: Hold, attempt: Attempt, error: BaseException) -> None:
        end = ending(error, committed=attempt.call.reply.committed)
        status = error.status if isinstance(error, GatewayError) else 0
        code = error.code if isinstance(error, GatewayError) else end.kind
        usage = attempt.meter.usage if attempt.meter is not None else None
        verdict: Verdict = (REAPED, 0, end.kind)
        # the gateway's own error, after the upstream has answered: it bills that answer
        answered = attempt.status is not None and isinstance(error, ClientError)
        if end.money == "void" and not answered:
            # of an attempt split into several requests, some may have been answered before one was rejected
            used = usage is not None and usage.billable
            outcome = Outcome(status, usage=usage)
            verdict = judged(hold.amount, attempt.card, outcome) if used else (VOIDED, 0, end.kind)
        elif _final(attempt):
            verdict = judged(hold.amount, attempt.card, Outcome(status, usage=usage))
        self._settle(ledger, hold, attempt, verdict, _metered(attempt, usage, status, code))

    def _ended(self, ledger: Ledger, hold: Hold, attempt: Attempt, outcome: Outcome) -> None:
        code = outcome.error.code if outcome.error is not None else None
        verdict = judged(hold.amount, attempt.card, outcome, final=outcome.error is not None and _final(attempt))
        self._settle(ledger, hold, attempt, verdict, _metered(attempt, outcome.usage, outcome.status, code))

    def _settle(self, ledger: Ledger, hold: Hold, attempt: Attempt, verdict: Verdict, metered: Metered) -> None:
        state, amount, basis = verdict
        if state == REAPED:
            metered = metered._replace(upstream_id=attempt.upstream_id)
        if attempt.call.stream:
            self._streams.under.pop(hold.id, None)
        ledger.settle(hold, state, amount, basis, metered)
        if state == REAPED:
            self.counts["reaped"] += 1
        elif basis == "partly unpriced":
            self.counts["partly_unpriced"] += 1
        if self._draining > 0 and attempt.call.get(self._lingers):
            attempt.call[self._lingers] = False
            self._draining -= 1

    def _linger(self, call: Call) -> float:
        """Seconds to keep reading after a client has left; 0 if too many answers are being drained."""
        config: BudgetConfig = self.config
        if self._draining >= config.drain_most:
            self.counts["drains_refused"] += 1
            return 0.0
        self._draining += 1
        call[self._lingers] = True
        self.counts["drained"] += 1
        drain_for: float = config.drain_for
        return drain_for

    def _over(self, hold: Hold) -> None:
        """An estimate was too low: the actual cost is posted, and the model's next holds are a quarter larger."""
        if not hold.enforced:
            return
        self.counts["underestimates"] += 1
        model = hold.facts.model
        factor, of = self._factors.get(model, AS_IT_IS)
        if factor < _MOST_FACTOR * of and len(self._factors) < _MODELS:
            self._factors[model] = (factor * 5, of * 4)
        _log.error("a call cost more than was held for it", hold=hold.id, over_nano=hold.over, model=model)

    def _event(self, event: Event) -> None:
        self.counts[event.topic] += 1
        _log.warning(event.topic, **event.body)

    def explain(self, call: Call) -> str | None:
        """The budgets that would apply, and the worst case."""
        if not call.targets:
            return None
        attempt = Attempt(call, call.targets[0])
        call.attempts.pop()
        try:
            budgets = self.accounts.of(attempt)
        except UnknownPlan as unknown:
            return f"refused: the budget {unknown} does not exist"
        terms = bound(attempt, self.setup.prices.card(attempt.target), self.config.max_output)
        worst = "unpriced" if terms is None else f"holds up to {dollars(terms.amount)}"
        return f"{worst}; budgets: {', '.join(budget.id for budget in budgets.all) or 'none'}"

    def metrics(self) -> Iterator[Sample]:
        """The number of open holds, counts of events, and what is left of budgets."""
        yield Sample("gwcore_budget_holds", len(self.ledger.open) if self.ledger else 0, help="Open reservations.")
        yield from self.tally.samples()
        yield from self.gauges.samples()

    def health(self) -> dict[str, Any] | None:
        """Counters, the number of open holds, and the state of the store; ``None`` while the ledger is closed."""
        if (ledger := self.ledger) is None:
            return None
        return {
            "mode": ledger.mode,
            "open": len(ledger.open),
            "unwritten": ledger.group.backlog + len(ledger.escrow.done),
            "store": "down" if ledger.group.down else "up",
            "degraded": bool(ledger.group.down),
            "refused": len(ledger.group.refused),
            "counts": dict(self.counts),
        }


def _final(attempt: Attempt) -> bool:
    """Whether the upstream has reported everything it will bill, even if an error followed."""
    return attempt.meter is not None and attempt.meter.final


def _told(call: Call, lengths: Mapping[int, int]) -> Headers:
    tokens = None if call.served is None else lengths.get(call.served.number)
    return [] if tokens is None else [(b"x-gwcore-max-tokens", b"%d" % tokens)]


def _expires(call: Call) -> int:
    left = _UNLIMITED if call.deadline is None else max(0.0, call.deadline - time.monotonic())
    return int((left + 60) * 1000)


def _metered(attempt: Attempt, usage: Usage | None, status: int, error: str | None) -> Metered:
    first, started = attempt.first_byte_at, attempt.started
    used = usage or _NO_USAGE
    return metered((
        status,
        error,
        used.input,
        used.cache_read + used.audio_cache_read + used.image_cache_read,
        used.cache_write_5m,
        used.cache_write_1h,
        used.output,
        used.reasoning,
        used.audio_in,
        used.audio_out,
        used.image_in,
        used.image_out,
        orjson.dumps(dict(used.fees)).decode() if used.fees else None,
        None if first is None else int((first - started) * 1000),
        int((time.perf_counter() - started) * 1000),
        None,
    ))  # fmt: skip

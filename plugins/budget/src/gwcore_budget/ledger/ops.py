"""The ledger's operations and their results. Amounts are integer nano-USD, times are milliseconds since 1970.

::

              reserve                       post(actual)
   (none) ───────────────▶ PENDING ────────────────────────▶ POSTED   final
                             │ void (known not billed) ─────▶ VOIDED   final
                             │ reap (unknown, worst case) ──▶ REAPED ──post(actual)──▶ POSTED   (one correction)

A hold's id is ``request:attempt``, chosen by the caller. Every message may be repeated; a repeat changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import orjson

from gwcore_budget.window import Period, Window

PENDING, POSTED, VOIDED, REAPED = 0, 1, 2, 3
STATES = ("pending", "posted", "voided", "reaped")
MOST = 9_000_000_000_000_000
"""Nano-USD: the largest limit and the largest amount, exact in a double."""


@dataclass(slots=True, frozen=True)
class Budget:
    """One limit on one scope's spending.

    Attributes:
        id: ``scope:scope_id:window``, plus whatever else distinguishes two budgets of a scope.
        limit: nano-USD per window; ``None`` if spending is only watched (``soft``).
        soft: nano-USD; once this much is posted, one event is sent per period.
        bonus, bonus_until: a temporary increase of the limit, and the millisecond at which it ends.
        on_short: ``clamp``, ``wait`` or ``reject``.
        unpriced: ``deny``, ``allow_unmetered``, or the nano-USD to hold.
        origin: ``rule``, ``policy`` (from ``max_budget``) or ``part`` (limits a model, or only some calls).
    """

    id: str
    scope: str
    scope_id: str
    window: Window
    limit: int | None
    soft: int | None = None
    bonus: int = 0
    bonus_until: int = 0
    on_short: str = "clamp"
    unpriced: str | int = "deny"
    origin: str = "rule"

    def limit_at(self, now: int) -> int | None:
        """The limit with its temporary increase."""
        if self.limit is not None and now < self.bonus_until:
            return self.limit + self.bonus
        return self.limit


class Charge(NamedTuple):
    """A budget, and the period of a reserve by the caller's reading of the store's clock."""

    budget: Budget
    period: Period


class Facts(NamedTuple):
    """Columns of an attempt's row that are known before it: caller, request and target."""

    request: str
    attempt: int = 1
    organisation: str | None = None
    team: str | None = None
    user_id: str | None = None
    end_user: str | None = None
    key_id: str | None = None
    session: str | None = None
    tags: str = "[]"
    dialect: str = ""
    operation: str = ""
    model_asked: str | None = None
    model: str = ""
    upstream: str = ""
    provider: str = ""
    price_version: str | None = None
    stream: int = 0


class Metered(NamedTuple):
    """Columns of an attempt's row that are written when the hold is settled: the outcome, and tokens by bucket.

    ``upstream_id``: the vendor's id of the request, kept if the outcome is unknown, so that a bill can settle it.
    ``cache_read``: tokens of any kind read from the vendor's cache, including audio and images.
    """

    status: int = 0
    error: str | None = None
    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0
    image_in: int = 0
    image_out: int = 0
    fees: str | None = None
    first_byte_ms: int | None = None
    duration_ms: int = 0
    upstream_id: str | None = None


NOTHING_METERED = Metered()
facts: Callable[[Iterable[Any]], Facts] = partial(tuple.__new__, Facts)
metered: Callable[[Iterable[Any]], Metered] = partial(tuple.__new__, Metered)
"""``facts`` and ``metered`` build a row from all columns in order, faster than ``_make``: every attempt needs them."""


@dataclass(slots=True)
class Hold:
    """One attempt's money and data: a row.

    If it was admitted within grants, the store writes the worker's own object: after :meth:`end` it belongs to the
    ledger's thread, which sets only ``ended`` and ``new``, because a transaction may be repeated.

    Attributes:
        amount: nano-USD held; ``None``: unmetered. ``settled``: the final amount; ``over``: its excess over ``amount``.
        accounts: ids of the accounts that it changes.
        began: monotonic time in seconds at which this worker admitted it; not a column.
        enforced: whether the upstream was told to stay within ``amount``; not a column.
        new, changed: the store must insert or update the row.
    """

    id: str
    worker: str
    state: int
    amount: int | None
    settled: int | None
    accounts: tuple[int, ...]
    created: int
    expires: int
    facts: Facts
    basis: str = ""
    metered: Metered = NOTHING_METERED
    ended: int | None = None
    began: float = 0.0
    enforced: bool = True
    over: int = 0
    new: bool = False
    changed: bool = False

    def end(self, state: int, amount: int, basis: str, metered: Metered) -> None:
        """End the hold; arguments as in :class:`Settle`."""
        self.state, self.basis = state, basis
        held = self.amount or 0
        if state == POSTED:
            self.settled = None if self.amount is None and basis == "unmetered" else amount
            self.over = amount - held if amount > held else 0
        else:
            self.settled = held if state == REAPED else 0
        if metered != NOTHING_METERED:  # a bill states costs, not usage: keep the latter
            self.metered = metered


@dataclass(slots=True)
class Reserve:
    """Hold ``amount`` on every charge, or nothing.

    Attributes:
        least: the smallest amount that suffices; the result says how much was held.
        chunk: if every charge has more than ``floor`` free, grant the worker up to this much instead; 0: never.
        expires: milliseconds after which another worker may consider the hold lost.
        abandoned: the caller no longer waits: hold nothing, but take a grant. Set by the caller, read when applied.
    """

    hold: str
    worker: str
    amount: int | None
    charges: tuple[Charge, ...]
    facts: Facts
    least: int | None = None
    chunk: int = 0
    floor: int = 0
    expires: int = 60_000
    abandoned: bool = False


@dataclass(slots=True)
class Settle:
    """End a hold: ``state`` is POSTED (``amount``: actual cost), VOIDED (not billed) or REAPED (unknown: worst case).

    ``less``: the level of details left out of the hold's facts, if the store refuses them; see
    :mod:`gwcore_budget.ledger.refused`.
    """

    hold: str
    state: int
    amount: int = 0
    basis: str = ""
    metered: Metered = NOTHING_METERED
    worker: str = ""
    less: int = 0


@dataclass(slots=True, frozen=True)
class Shrink:
    """Lower a pending hold to ``amount``: the provider has reported the exact input during the stream."""

    hold: str
    amount: int


@dataclass(slots=True)
class Spent:
    """Escrow: holds within ``worker``'s grants that have ended. Repeats are recognised by their ids.

    If the store refuses some of ``holds``, the others are removed once they are written. ``found``: read from the
    journal of a dead worker, which may have sent them long ago.
    """

    worker: str
    holds: tuple[Hold, ...]
    found: bool = False


@dataclass(slots=True, frozen=True)
class GiveBack:
    """Escrow: return unused parts of grants; ``amounts`` is account → nano-USD.

    ``turn`` increases with each that the worker sends. It identifies a repeat, which must not take what was granted
    since.
    """

    worker: str
    amounts: tuple[tuple[int, int], ...]
    turn: int


@dataclass(slots=True, frozen=True)
class Bury:
    """Return a dead worker's grants, or with ``burn`` post them as lost: one REAPED hold per grant, correctable.

    Spending that the worker reports later (:class:`Spent`) is taken out of the burn.
    """

    worker: str
    burn: bool = False


@dataclass(slots=True, frozen=True)
class Reset:
    """Restart a budget now, by hand: a new generation of accounts; past spending stays in the old one."""

    budget: str


@dataclass(slots=True, frozen=True)
class Recall:
    """Ask every worker to return the unused parts of its grants on these budgets."""

    budgets: tuple[str, ...]


Op = Reserve | Settle | Shrink | Spent | GiveBack | Bury | Reset | Recall

# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Granted(NamedTuple):
    """What a worker may spend on one account; ``recall`` and ``generation`` are the budget's when it was granted."""

    budget: str
    account: int
    amount: int
    end: int
    recall: int
    generation: int


@dataclass(slots=True, frozen=True)
class Admitted:
    """The money is held, durably.

    ``amount`` may be less than requested, down to ``least``. With ``grants`` nothing is held: spend within them.
    """

    amount: int | None
    accounts: tuple[int, ...] = ()
    grants: tuple[Granted, ...] = ()
    now: int = 0


@dataclass(slots=True, frozen=True)
class Short:
    """Refused: ``budget`` had ``free`` left of ``limit``; ``posted`` is spent, ``pending`` held by others.

    ``need`` is the smallest amount that would have sufficed: the requested amount, cut for what is spent.
    """

    budget: Budget
    free: int
    limit: int
    posted: int
    pending: int
    need: int
    resets: int
    now: int = 0

    @property
    def held_only(self) -> bool:
        """Whether only pending holds prevent it: then a retry may succeed."""
        return self.posted + self.need <= self.limit


@dataclass(slots=True, frozen=True)
class Stale:
    """The caller's clock is off, or a period has just ended; ``now`` is the store's clock. Send it again."""

    now: int


@dataclass(slots=True)
class Done:
    """The state has changed."""

    state: int
    amount: int | None = None
    over: int = 0


@dataclass(slots=True, frozen=True)
class Already:
    """A repeat: the hold was already in ``state`` with ``amount``. Nothing has changed."""

    state: int
    amount: int | None
    conflict: bool = False


@dataclass(slots=True, frozen=True)
class Missing:
    """No such hold, budget or grant."""

    what: str


@dataclass(slots=True, frozen=True)
class ClockJump:
    """The host's clock has jumped, so no new period is opened."""

    seconds: float


@dataclass(slots=True, frozen=True)
class Dropped:
    """The caller had given up before the operation began."""


Result = Admitted | Short | Stale | Done | Already | Missing | ClockJump | Dropped


@dataclass(slots=True)
class Event:
    """A row for the outbox: ``id`` is deterministic, so that the sink can recognise a repeat."""

    id: str
    topic: str
    body: dict[str, object] = field(default_factory=dict)


def burn_id(worker: str, account: int) -> str:
    """The id of the hold for what was burned of a worker's grant."""
    return f"burn:{worker}:{account}"


@lru_cache(maxsize=1000)
def ids_text(ids: tuple[int, ...]) -> str:
    """Account ids as stored in a row: a JSON array."""
    return orjson.dumps(ids).decode()


def done(hold: Hold) -> Done:
    """The result of a hold that has ended."""
    return Done(hold.state, hold.settled or 0, hold.over if hold.amount is not None else 0)

"""What is asked of the ledger, and what it answers. Amounts are integer nano-USD, times milliseconds since 1970.

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
    """One limit on one scope's money.

    Attributes:
        id: ``scope:scope_id:window``, and what else tells two budgets of a scope apart.
        limit: nano-USD per window; ``None`` only watches (``soft``).
        soft: nano-USD at whose posting one event is told per period.
        bonus, bonus_until: a temporary increase of the limit, and the millisecond at which it ends.
        on_short: ``clamp``, ``wait`` or ``reject``.
        unpriced: ``deny``, ``allow_unmetered``, or the nano-USD to hold.
        origin: ``rule``, ``policy`` (the one of ``max_budget``) or ``part`` (of a model, or of fewer calls).
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
    """A budget in the period a reserve falls in, as the caller reads the store's clock."""

    budget: Budget
    period: Period


class Facts(NamedTuple):
    """Who asked for what, known before the attempt: columns of its row."""

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
    """What came of it: columns of its row, written when the hold is settled. Tokens by bucket.

    ``upstream_id``: how the vendor calls the request, kept where the outcome is unknown and a bill of his may tell it.
    ``cache_read`` has what was read from the vendor's cache of any kind, audio and images too.
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
"""Of all columns in order, as ``_make`` does; of every attempt, so without asking for them by name."""


@dataclass(slots=True)
class Hold:
    """One attempt's money and what is known of the attempt: a row.

    Of one that was admitted within grants, the worker's own is what the store writes: after :meth:`end` it belongs to the ledger's
    thread, which says when it ``ended`` and that it is ``new``. All else stays as it is, since a transaction may be repeated.

    Attributes:
        amount: what was held; ``None`` is unmetered. ``settled``: what it came to in the end; ``over``: by how much that is more.
        accounts: ids of the accounts that it moves.
        began: monotonic second at which this worker admitted it; no column.
        enforced: whether the upstream was told to keep to ``amount``; no column.
        new, changed: the store has to hear of it.
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
        """As :class:`Settle` says."""
        self.state, self.basis = state, basis
        held = self.amount or 0
        if state == POSTED:
            self.settled = None if self.amount is None and basis == "unmetered" else amount
            self.over = amount - held if amount > held else 0
        else:
            self.settled = held if state == REAPED else 0
        if metered != NOTHING_METERED:  # a bill says what it cost, not what was used
            self.metered = metered


@dataclass(slots=True)
class Reserve:
    """Hold ``amount`` on every charge, or nothing.

    Attributes:
        least: a smaller amount that will do; the answer says what was held.
        chunk: with more than ``floor`` free on every charge, grant up to so much to the worker instead; 0: never.
        expires: after so many milliseconds another worker may take the hold for lost.
        abandoned: nobody waits any more, and nothing is held; set by the caller, read just before it is applied. A grant is taken.
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
    """End a hold: ``state`` is POSTED (``amount`` is the truth), VOIDED (not billed) or REAPED (unknown: the worst case).

    ``less``: how much of the hold's facts is left out, since the store refuses them; see :mod:`gwcore_budget.ledger.refused`.
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
    """Lower a pending hold to ``amount``: the provider has told the exact input while the stream runs."""

    hold: str
    amount: int


@dataclass(slots=True)
class Spent:
    """Escrow: holds within ``worker``'s grants that have ended. Repeats are told by their ids.

    Where some of ``holds`` cannot be written, the others are taken out. ``found`` in the journal of a dead worker, which may
    have told them long ago.
    """

    worker: str
    holds: tuple[Hold, ...]
    found: bool = False


@dataclass(slots=True, frozen=True)
class GiveBack:
    """Escrow: return unused parts of grants; ``amounts`` is account → nano-USD.

    ``turn`` grows with each that the worker sends: a repeat, which must not return what is spent meanwhile, is told by it.
    """

    worker: str
    amounts: tuple[tuple[int, int], ...]
    turn: int


@dataclass(slots=True, frozen=True)
class Bury:
    """A dead worker's grants: returned, or with ``burn`` posted as lost, one REAPED hold for each, correctable.

    What that worker tells after all (:class:`Spent`) is taken out of what was burned.
    """

    worker: str
    burn: bool = False


@dataclass(slots=True, frozen=True)
class Reset:
    """Begin a budget anew, now, by hand: a new generation of accounts; what was spent stays in the old one."""

    budget: str


@dataclass(slots=True, frozen=True)
class Recall:
    """Ask every worker to give back what it holds of these budgets and does not use."""

    budgets: tuple[str, ...]


Op = Reserve | Settle | Shrink | Spent | GiveBack | Bury | Reset | Recall

# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Granted(NamedTuple):
    """What a worker may spend of one account; ``recall`` and ``generation`` are the budget's when it was granted."""

    budget: str
    account: int
    amount: int
    end: int
    recall: int
    generation: int


@dataclass(slots=True, frozen=True)
class Admitted:
    """The money is held, durably.

    ``amount`` may be less than asked, down to ``least``. With ``grants`` nothing is held: spend within them.
    """

    amount: int | None
    accounts: tuple[int, ...] = ()
    grants: tuple[Granted, ...] = ()
    now: int = 0


@dataclass(slots=True, frozen=True)
class Short:
    """Refused: ``budget`` had ``free`` left of ``limit``; ``posted`` is spent, ``pending`` held by others.

    ``need`` is the least that would have done: what is asked for, cut for what is spent.
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
        """Whether only calls under way stand in the way: then it is worth coming back."""
        return self.posted + self.need <= self.limit


@dataclass(slots=True, frozen=True)
class Stale:
    """The caller's clock is off, or a period has just ended; ``now`` is the store's. Ask again."""

    now: int


@dataclass(slots=True)
class Done:
    """The state has changed."""

    state: int
    amount: int | None = None
    over: int = 0


@dataclass(slots=True, frozen=True)
class Already:
    """A repeat: the hold is in ``state`` with ``amount`` since before. Nothing has changed."""

    state: int
    amount: int | None
    conflict: bool = False


@dataclass(slots=True, frozen=True)
class Missing:
    """No such hold, budget or grant."""

    what: str


@dataclass(slots=True, frozen=True)
class ClockJump:
    """The host's clock has jumped: no new period is opened on its word."""

    seconds: float


@dataclass(slots=True, frozen=True)
class Dropped:
    """The caller had given up before the operation began."""


Result = Admitted | Short | Stale | Done | Already | Missing | ClockJump | Dropped


@dataclass(slots=True)
class Event:
    """A row for the outbox: ``id`` is deterministic, so that a repeat at the sink is known."""

    id: str
    topic: str
    body: dict[str, object] = field(default_factory=dict)


def burn_id(worker: str, account: int) -> str:
    """The hold of what was burned of a worker's grant."""
    return f"burn:{worker}:{account}"


@lru_cache(maxsize=1000)
def ids_text(ids: tuple[int, ...]) -> str:
    """Accounts as they stand in a row: a JSON array."""
    return orjson.dumps(ids).decode()


def done(hold: Hold) -> Done:
    """What became of a hold that has ended."""
    return Done(hold.state, hold.settled or 0, hold.over if hold.amount is not None else 0)

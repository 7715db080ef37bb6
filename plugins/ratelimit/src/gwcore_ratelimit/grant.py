"""The charges of a call or an attempt until it ends, and the headers about them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from gwcore.call import Attempt, Call, Key
from gwcore.outcomes import ending
from gwcore.wire.transport import Headers
from gwcore_ratelimit import counting
from gwcore_ratelimit.gcra import Change, Charge, Reading, Verdict
from gwcore_ratelimit.headers import Telling
from gwcore_ratelimit.rules import Bound


class Grant:
    """The charges of one call or attempt. Holds no reference to the call, so that it is in no reference cycle.

    Attributes:
        bound: the limits.
        charges: the initial charges.
        size: what the token estimate is based on; ``None`` if no limit counts tokens.
        attempts: those whose tokens count: all of a call, or one.
        verdict: of the limiter.
        told: the tokens finally charged, by manner of counting; ``changes``: corrections of the initial charges.
        lesson: input and output tokens of the only attempt that reported usage, if they are known to be all.
    """

    __slots__ = ("_seen", "attempts", "bound", "changes", "charges", "lesson", "size", "told", "verdict")

    def __init__(self, bound: Bound, attempts: Sequence[Attempt]) -> None:
        self.bound = bound
        self.charges: Sequence[Charge] = bound.charges
        self.attempts = attempts
        self.size: tuple[int, int] | None = None
        self.verdict: Verdict
        self.lesson: tuple[int, int] | None
        self.told: dict[str, int]
        self.changes: list[Change]
        self._seen = -1

    def tell(self, call: Call) -> None:
        """Add the headers: for each kind, those of the limit with the least remaining, over all rules of both rings."""
        if self.attempts is not call.attempts and call.reply.committed:  # an attempt that continues an answer
            return
        grants = call.get(_TOLD)
        if grants is not None:
            grants.append(self)
            return
        grants = call[_TOLD] = [self]
        call.reply.add_headers(partial(_said, call, grants))

    def count(self, *, final: bool) -> None:
        """Count the tokens used. The count made for the head is final if no attempt followed and the call did not fail.

        A request that was refused or never sent used nothing; a reply that broke or was abandoned may have used more
        than it reported. A charge is lowered only if all usage is known.
        """
        attempts = self.attempts
        if final and self._seen == len(attempts):
            return
        self._seen = len(attempts)
        reports = read = cached = written = 0
        known = True
        for attempt in attempts:
            error = attempt.error
            usage = attempt.meter.usage if attempt.meter is not None else None
            if usage is not None:
                reports += 1
                read += usage.total_in
                cached += usage.cached
                written += usage.total_out
            if error is not None:
                known &= usage is None and ending(error).money == "void"
            elif usage is None:
                known &= not counting.dispatched(attempt)
        self.lesson = (read, written) if known and reports == 1 else None
        charges, verdict = self.charges, self.verdict
        changes = self.changes = []
        told = self.told = {}
        for n in self.bound.tokens:
            limit, key, cost = charges[n]
            tokens = counting.counted(limit, read, cached, written)
            if not known and tokens < cost:
                tokens = cost
            told[limit.manner] = tokens
            reading = verdict.readings[n]
            if tokens != cost and reading is not None and n not in verdict.shadowed:
                changes.append((limit, key, tokens - cost, reading[2]))

    def header(self, call: Call) -> Headers:
        """The counted tokens, if the reply is complete when its head is sent; else, and for an attempt, nothing."""
        attempts = self.attempts
        if attempts is not call.attempts or self.verdict.refused >= 0 or call.reply.waiting:
            return []
        for attempt in attempts:
            if attempt.usage is None and attempt.error is None:
                return []
        self.count(final=False)
        return [(counting.HEADER, self.bound.counted % tuple(self.told.values()))]


_TOLD: Final = Key("ratelimit.told", list[Grant], own=True)


def _said(call: Call, grants: list[Grant]) -> Headers:
    """The headers, computed when the head is sent: until then a later rule may have less remaining."""
    only = grants[0]
    if len(grants) == 1 and only.bound.alone:
        told, readings = only.bound.told, only.verdict.readings
    else:
        told, readings = _least(grants)
    headers: Headers = []
    for n, _, first, left, again, written in told:
        reading = readings[n]
        if reading is not None:
            headers += first, (left, b"%d" % reading[0]), (again, written(reading[1]))
    for grant in grants:
        if grant.bound.tokens:
            headers += grant.header(call)
    return headers


def _least(grants: list[Grant]) -> tuple[list[Telling], list[Reading | None]]:
    least: dict[str, tuple[Telling, Reading]] = {}
    for grant in grants:
        for telling in grant.bound.told:
            reading, kind = grant.verdict.readings[telling[0]], telling[1]
            if reading is not None and (kind not in least or reading[0] < least[kind][1][0]):
                least[kind] = telling, reading
    told = [(n, *telling[1:]) for n, (telling, _) in enumerate(least.values())]
    return told, [reading for _, reading in least.values()]

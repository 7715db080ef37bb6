"""State of the alerts. A subject is alerted once, again if it gets worse, as a reminder, and when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gwcore_observability.alerts.claims import Claims
from gwcore_observability.alerts.findings import Alert, Finding, State, moment

MOST = 500
"""Limit of subjects tracked at once; more only arise if something invents them."""


@dataclass(slots=True)
class _Case:
    """``told``: time of the last alert, 0 while another worker sends them; ``ended``: when it was over."""

    finding: Finding
    since: float
    seen: float
    told: float = 0.0
    ended: float = 0.0


class Board:
    """One per process; it outlives a reload."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self._cases: dict[str, _Case] = {}
        self._turn = asyncio.Lock()

    async def look(self, findings: Iterable[Finding], now: float, remind: float, settle: float) -> list[Alert]:
        """The alerts to send for the current findings. ``now`` in seconds since the epoch, the others in seconds."""
        told: list[Alert] = []
        async with self._turn:
            for finding in findings:
                alert = await self._found(finding, now, remind)
                if alert is not None:
                    told.append(alert)
            for case in [case for case in self._cases.values() if now - case.seen >= settle and case.seen < now]:
                alert = await self._gone(case, now, settle)
                if alert is not None:
                    told.append(alert)
        return told

    async def _found(self, finding: Finding, now: float, remind: float) -> Alert | None:
        case = self._cases.get(finding.subject)
        if finding.doubtful:
            if case is not None and not case.ended:
                case.seen = now
            return None
        if case is None or case.ended:
            if case is None and len(self._cases) >= MOST:
                return None
            case = self._cases[finding.subject] = _Case(finding, now, now)
        worse = finding.step > case.finding.step
        case.seen = now
        case.finding = finding if worse or not case.told else replace(finding, step=case.finding.step)
        if not await self.claims.take(finding.subject):
            case.told = 0.0
            return None
        if case.told and not worse and now - case.told < remind:
            return None
        state: State = "reminder" if case.told and not worse else "firing"
        case.told = now
        return self._alert(case, state, now)

    async def _gone(self, case: _Case, now: float, settle: float) -> Alert | None:
        subject = case.finding.subject
        if case.told and not case.ended:
            # hold the claim a little longer: workers that still see the finding must not alert again
            await self.claims.take(subject)
            case.ended = now
            return self._alert(case, "over", now) if case.finding.over else None
        if case.told and now - case.ended < settle:
            await self.claims.take(subject)
            return None
        if case.told:
            await self.claims.free(subject)
        del self._cases[subject]
        return None

    def _alert(self, case: _Case, state: State, now: float) -> Alert:
        one = case.finding
        title = one.over if state == "over" else one.title
        return Alert(one.kind, state, one.subject, title, moment(now), moment(case.since), one.facts)

    def active(self) -> dict[str, int]:
        """Number of active subjects by kind."""
        counts: dict[str, int] = {}
        for case in self._cases.values():
            if not case.ended:
                counts[case.finding.kind] = counts.get(case.finding.kind, 0) + 1
        return counts

    async def aclose(self) -> None:
        """Release all claims."""
        await self.claims.aclose()

"""The outbox: changes of the ledger, pushed to a webhook at least once, each row with its own id.

Rows are written in the transaction of the change itself and deleted only after the receiver's 2xx, so a crash at any point
may send some twice, but loses none. Workers take turns: a row is claimed by moving its ``due`` time on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx2
import orjson
import structlog

from gwcore_budget.config import Export
from gwcore_budget.ledger.home import Home, places

CLAIM = 30_000
"""Milliseconds for which a claimed row is reserved for the worker that claimed it."""
MOST_PAUSE = 60.0
_log = structlog.get_logger("gwcore.budget")
_Row = tuple[str, str, str]


class Exporter:
    """One task per worker."""

    def __init__(self, config: Export, home: Home, now: Callable[[], int], counts: Counter[str]) -> None:
        self._config = config
        self._home = home
        self._now = now
        self._counts = counts

    async def run(self) -> None:
        """Send batches until cancelled."""
        headers = {name.encode(): secret.get_secret_value().encode() for name, secret in self._config.headers.items()}
        headers[b"content-type"] = b"application/json"
        pause = 0.0
        async with httpx2.AsyncClient(headers=headers, timeout=CLAIM / 3000, trust_env=False) as http:
            while True:
                try:
                    sent = await self.once(http)
                    pause = 0.0 if sent else self._config.interval
                except Exception as error:  # such as a conflict of two claims: one failed batch must not end the loop
                    self._counts["export_failed"] += 1
                    pause = min(MOST_PAUSE, max(0.5, 2 * pause))
                    _log.warning("export failed", error=type(error).__name__, again_in=pause)
                await asyncio.sleep(pause)

    async def once(self, http: httpx2.AsyncClient) -> int:
        """Send one batch; returns its number of rows. Raises ``StoreDown``, ``httpx2.HTTPError``."""
        rows = await self._claim()
        if not rows:
            return 0
        body = [{"id": id_, "topic": topic, "body": orjson.loads(text)} for id_, topic, text in rows]
        try:
            (await http.post(self._config.url, content=orjson.dumps(body))).raise_for_status()
        except httpx2.HTTPError:
            # the fault is the receiver's, not the rows': release them, so that any worker may retry
            await self._each(
                "UPDATE budget_outbox SET due = $1, tries = tries + 1 WHERE id IN ({}) RETURNING id", rows, self._now()
            )
            raise
        await self._each("DELETE FROM budget_outbox WHERE id IN ({}) RETURNING id", rows)
        self._counts["exported"] += len(rows)
        return len(rows)

    async def _claim(self) -> list[_Row]:
        now = self._now()
        # the second condition is checked again after waiting for another worker's claim
        claimed = await self._home.rows(
            "UPDATE budget_outbox SET due = $1 WHERE id IN "
            "(SELECT id FROM budget_outbox WHERE due <= $2 ORDER BY due, id LIMIT $3) AND due <= $2 "
            "RETURNING id, topic, body",
            now + CLAIM, now, self._config.batch,
        )  # fmt: skip
        return [(id_, topic, text) for id_, topic, text in claimed]

    async def _each(self, statement: str, rows: list[_Row], *first: int) -> None:
        """Run a statement on the rows; ``first`` are bound before their ids."""
        listed = places(len(rows), len(first) + 1)
        await self._home.rows(statement.format(listed), *first, *(id_ for id_, _, _ in rows))

"""Active health checks: a GET without tokens to each upstream and credential, from one prober in the whole fleet.

Two failed checks in a row bar the credential in the whole fleet; a successful one frees it. A readable list of models
does not prove that a model answers, so deployments are still judged by their calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from gwcore.errors import Exhausted, GatewayError
from gwcore.provider import Upstream
from gwcore.wire.transport import Request, Timeouts
from gwcore_fallback.config import CheckConfig
from gwcore_fallback.plan import Fleet
from gwcore_fallback.shared import Alone

KIND = "check"
_IN_A_ROW = 2

_log = structlog.get_logger("gwcore.fallback")


class Checks:
    """The prober of one process; active while the process is the leader.

    Args:
        config: the settings.
        fleet: has the breakers of credentials.
        shared: decides which process is the leader.
        upstreams: all of the stack file.
    """

    def __init__(self, config: CheckConfig, fleet: Fleet, shared: Alone, upstreams: Iterable[Upstream]) -> None:
        self._config = config
        self._fleet = fleet
        self._shared = shared
        chosen = [one for one in upstreams if not config.upstreams or one.name in config.upstreams]
        self._upstreams = [key for one in chosen for key in one.keys or (one,)]
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                if await self._shared.leads(self._config.interval):
                    await asyncio.gather(*map(self._check, self._upstreams))
            except Exception as error:  # nobody would notice a dead prober
                _log.error("health check failed", error=type(error).__name__)
            await asyncio.sleep(self._config.interval)

    async def _check(self, upstream: Upstream) -> None:
        guard = self._fleet.credential(upstream)
        why = await self._ask(upstream)
        if why is None:
            self._failures.pop(guard.id, None)
            if guard.opens and guard.reason == KIND:
                guard.succeeded(decides=True)
            return
        failures = self._failures[guard.id] = self._failures.get(guard.id, 0) + 1
        if failures >= _IN_A_ROW:
            if failures == _IN_A_ROW:
                _log.warning("upstream fails its health check", upstream=upstream.name, key=upstream.key, reason=why)
            guard.shut(KIND)

    async def _ask(self, upstream: Upstream) -> str | None:
        """Why the check failed; ``None`` for any answer below 500 except 401."""
        wait = self._config.timeout
        path = self._config.upstreams.get(upstream.name, self._config.path)
        timeouts = Timeouts(connect=wait, first_byte=wait, idle=wait, total=wait)
        request = Request("GET", upstream.origin, upstream.base_path + path, list(upstream.headers), b"", timeouts)
        try:
            response = await upstream.transport.send(request)
        except Exhausted:  # says nothing of the upstream
            return None
        except GatewayError as error:
            return error.code
        response.close()
        return str(response.status) if response.status >= 500 or response.status == 401 else None

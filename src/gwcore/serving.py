"""``gwcore run``: a gateway on the edge server, one process or several."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from gwcore import log
from gwcore.catalog import Catalog
from gwcore.config import ServerConfig, StackConfig, is_loopback, read
from gwcore.errors import AssemblyError, BadConfig
from gwcore.gateway import Gateway
from gwcore.server import EdgeLimits, serve, serve_workers
from gwcore.stackfile import StackSource, load
from gwcore.workers import COUNT_ENV

_OF_A_START = (
    *("host", "port", "drain", "header_timeout", "body_timeout", "write_timeout", "min_body_rate"),
    *("max_headers", "max_head", "max_connections", "max_connections_per_ip", "watch"),
)
"""Settings of ``server`` that take effect only at a start: they configure the listening socket and its connections."""
_log = structlog.get_logger("gwcore")


def serve_stack(stack: Path, *, host: str | None, port: int | None, workers: int, watch: bool) -> int:
    """Serve until a signal stops it; returns the exit code.

    Raises:
        AssemblyError: the stack file is wrong, or the gateway is open on an address that others can reach.
    """
    log.setup()
    accepted = _Accepted(load(stack))
    config = servable(stack, host, accepted.source)
    server = config.server
    address, number = host or server.host, server.port if port is None else port
    _refuse_debugging(address)
    limits, announce = edge_limits(server), partial(_announce, stack, config)
    os.environ[COUNT_ENV] = str(workers)  # overrides WEB_CONCURRENCY, which a platform sets for other servers
    again, tell = partial(servable, stack, address), partial(_reloadable, stack, address, server, accepted)
    check = again if workers > 1 else tell

    def make() -> Gateway:
        return Gateway(stack, begin=accepted.source, serve_admin=True, check=check)

    common = partial(serve_workers, workers=workers, check=partial(_problem, tell)) if workers > 1 else serve
    return common(
        make,
        host=address,
        port=number,
        limits=limits,
        drain=server.drain,
        watch=[stack] if watch or server.watch else [],
        on_ready=announce,
    )


class _Accepted:
    """The last valid stack file, with which a worker that replaces a dead one starts.

    So it behaves like the others, whatever has been written since. Otherwise a mistake in a file whose reload was
    rejected would keep workers from being replaced, one by one, until none is left.
    """

    def __init__(self, source: StackSource) -> None:
        self.source = source


def edge_limits(server: ServerConfig) -> EdgeLimits:
    """The connection limits of ``server``."""
    return EdgeLimits(
        header_timeout=server.header_timeout,
        body_timeout=server.body_timeout,
        write_timeout=server.write_timeout,
        min_body_rate=server.min_body_rate,
        max_headers=server.max_headers,
        max_header_bytes=server.max_head,
        max_connections=server.max_connections,
        max_connections_per_ip=server.max_connections_per_ip,
    )


def servable(stack: Path, host: str | None = None, source: StackSource | None = None) -> StackConfig:
    """Read the file, or ``source``. Raises ``AssemblyError`` for mistakes, and for what outsiders could exploit."""
    catalog = Catalog()
    config = read(source or load(stack), env=os.environ, registry=catalog)
    _refuse_published(stack, config)
    _refuse_open(config, host or config.server.host, any(catalog.identifies(entry.name) for entry in config.stack))
    return config


def _reloadable(stack: Path, address: str, started: ServerConfig, accepted: _Accepted) -> None:
    """Raise what a start with this file on our address would; log the settings that wait for the next start."""
    source = load(stack)
    now = servable(stack, address, source).server
    accepted.source = source
    waiting = [name for name in _OF_A_START if getattr(now, name) != getattr(started, name)]
    if waiting:
        _log.warning("settings of server that hold from the next start on", settings=waiting)


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except AssemblyError as error:
        return error.message
    return None


def _refuse_open(config: StackConfig, host: str, guarded: bool) -> None:
    guard = next((entry.config for entry in config.stack if entry.name == "auth"), None)
    if getattr(guard, "open", False):
        if not is_loopback(host):
            raise BadConfig(
                f"refusing to listen on {host} with auth.open: it is for this machine alone. Set auth.admin_key."
            )
        return
    if guarded or config.server.open:
        return
    if not is_loopback(host):
        raise BadConfig(
            f"refusing to listen on {host} without auth: anybody who reaches it could spend your money. "
            "Add `auth` to stack, listen on 127.0.0.1, or set server.open: true if something else guards it."
        )


def _refuse_published(stack: Path, config: StackConfig) -> None:
    """Reject an admin key in a file that every user of the machine can read."""
    guard = next((entry.config for entry in config.stack if entry.name == "auth"), None)
    secrets = [getattr(guard, name, None) for name in ("admin_key", "pepper")]
    if stack.stat().st_mode & 0o004:
        text = stack.read_text(encoding="utf-8")
        if any(secret is not None and secret.get_secret_value() in text for secret in secrets):
            raise BadConfig(
                f"{stack} holds auth's secret, and every user of this machine can read it. "
                'Write admin_key: "${GWCORE_ADMIN_KEY}", or chmod o-r the file.'
            )


def _refuse_debugging(host: str) -> None:
    """Reject debugging aids beyond loopback: they expose callback arguments (requests), or TLS session keys."""
    if is_loopback(host):
        return
    on = [name for name in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "SSLKEYLOGFILE") if os.environ.get(name)]
    if sys.flags.dev_mode and "PYTHONDEVMODE" not in on:
        on.append("-X dev")
    if on:
        raise BadConfig(
            f"refusing to listen on {host} with {', '.join(on)}: it writes down what clients send. "
            "Unset it, or listen on 127.0.0.1."
        )


def _announce(stack: Path, config: StackConfig, url: str) -> None:
    model = next((name for name in config.models if "*" not in name), None)
    print(f"gwcore serves {stack} on {url}", flush=True)  # noqa: T201 - what the command is for
    if model:
        key = " -H 'authorization: Bearer YOUR_KEY'" if any(e.name == "auth" for e in config.stack) else ""
        print(  # noqa: T201
            f"\n  curl {url}/v1/chat/completions -H 'content-type: application/json'{key} \\\n"
            f'    -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'\n',
            flush=True,
        )

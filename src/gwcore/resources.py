"""What stacks share across reloads: stores by URL, transports by settings. Opened once, reference-counted, closed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gwcore.errors import BadConfig
from gwcore.load import Load
from gwcore.patience import PROLONGED
from gwcore.wire.http1 import Http1Transport
from gwcore.wire.transport import Tls, Transport

T = TypeVar("T")


@dataclass(slots=True)
class Store:
    """A named store of the stack file. ``scheme`` is memory, sqlite, postgresql or redis.

    ``shared`` holds what plugins opened for this URL: two plugins on one store use one pool, and a reload that does not
    change the URL keeps it.
    """

    url: str = field(repr=False)
    scheme: str
    shared: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()`` the first time, the same object thereafter. Objects with ``aclose`` are closed with the store."""
        if key not in self.shared:
            self.shared[key] = make()
        value: T = self.shared[key]
        return value


SCHEMES = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
}


class Resources:
    """The shared resources of a gateway, and its load; each stack acquires its share through a :class:`Lease`."""

    def __init__(self) -> None:
        self.load = Load()
        self.open: dict[Hashable, Any] = {}
        self.users: dict[Hashable, int] = {}


class Lease:
    """What one stack uses. Released as a whole once the stack has drained; unused resources are then closed."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.load = resources.load
        self._taken: set[Hashable] = set()

    def _take(self, key: Hashable, make: Callable[[], T]) -> T:
        pool = self._resources
        if key not in pool.open:
            pool.open[key] = make()
        if key not in self._taken:
            self._taken.add(key)
            pool.users[key] = pool.users.get(key, 0) + 1
        value: T = pool.open[key]
        return value

    def store(self, url: str) -> Store:
        """The store behind ``url``. Raises ``BadConfig`` for an unknown scheme."""
        scheme = SCHEMES.get(url.partition(":")[0])
        if scheme is None:
            raise BadConfig(f"a store's URL begins with one of: {', '.join(SCHEMES)}")
        return self._take(("store", url), lambda: Store(url, scheme))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """An object that the next stack may reuse; its ``aclose()``, if any, is called once no stack uses it."""
        return self._take(("once", key), make)

    def transport(self, tls: Tls, proxy: str | None = None, *, http2: bool = False) -> Transport:
        """A transport with these settings, shared by every upstream that has the same."""

        def make() -> Transport:
            if proxy is None and not http2:
                return Http1Transport(tls)
            # httpx2 costs 0.2 s and 23 MiB: only a stack that asks for a proxy or HTTP/2 pays.
            from gwcore.wire.httpx import Httpx2Transport  # noqa: PLC0415

            return Httpx2Transport(proxy=proxy, http2=http2, tls=tls)

        return self._take(("transport", tls, proxy, http2), make)

    def before(self, gateway: Transport, made: Transport, key: Hashable) -> Transport:
        """A provider's wrapper of ``gateway``, or an equal one already in use; closed when nobody uses it any more."""
        return gateway if made is gateway else self._take(("before", id(gateway), key), lambda: made)

    async def release(self) -> None:
        """Release everything. Idempotent."""
        pool = self._resources
        while self._taken:
            key = self._taken.pop()
            pool.users[key] -= 1
            if pool.users[key] == 0:
                del pool.users[key]
                await _close(pool.open.pop(key))


async def _close(resource: Any) -> None:
    for value in reversed(list(resource.shared.values())) if isinstance(resource, Store) else (resource,):
        if hasattr(value, "aclose"):
            await value.aclose()


def redis_client(url: str, timeout: float | None, *, within: float | None = None, most: int | None = None) -> Any:
    """An asyncio client of the ``redis`` package that never retries: a command that was sent may have been executed.

    (The package's own default, ten retries of five seconds, would block a request for a minute.)

    Args:
        url: of a store whose scheme is ``redis``.
        timeout: seconds that callers wait for an answer with :func:`gwcore.patience.patience`, which the driver's own limit,
            :data:`gwcore.patience.PROLONGED` times longer, must not forestall; ``None`` for a client that listens.
        within: seconds to establish a connection; by default as long as the driver waits for an answer.
        most: maximum number of connections.

    Raises:
        BadConfig: the driver is not installed, or cannot read the URL.
    """
    try:
        from redis.asyncio import Redis  # noqa: PLC0415 - an optional driver
        from redis.asyncio.retry import Retry  # noqa: PLC0415 - an optional driver
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an optional driver
        from redis.exceptions import RedisError  # noqa: PLC0415 - an optional driver
        from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415 - an optional driver
    except ImportError:
        raise BadConfig("a redis store needs its driver; pip install 'gwcore[redis]'") from None
    connect: Any = Redis.from_url  # untyped in the driver
    limit = timeout and timeout * (1 + PROLONGED)
    how = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": limit,
        "socket_connect_timeout": limit if within is None else within,
        "legacy_responses": False,
        "max_connections": most,
        # with them the pool mistakes a connection closed by the server for one with a pending notice, and hands it out:
        # after any pause longer than the idle timeout of the server or a balancer, the first call would find no store
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    try:
        client = connect(url, **how)
        # create a connection without opening it: an invalid option would otherwise be a permanent outage
        connection = client.connection_pool.make_connection()
        if hasattr(connection, "ssl_context"):
            connection.ssl_context.get()  # and so would an unreadable certificate file
    except OSError as error:  # includes ssl errors: not a certificate, or a key that does not match it
        raise BadConfig(
            "the files that ssl_ca_certs, ssl_certfile and ssl_keyfile of a redis store's URL name cannot be used: "
            f"{error.strerror or type(error).__name__}"
        ) from None
    except (ValueError, TypeError, RedisError):  # their texts may quote a password
        raise BadConfig(
            "the URL of a redis store is redis://user:password@host:6379/0, of one server, with options that its driver knows; "
            "what is special in a password is percent-encoded"
        ) from None
    return client

"""Every failure that has a name, as one tree.

::

    GatewayError                 code · status · message · retry_after · plugin
    ├── AssemblyError            never on the wire: a stack that cannot be built
    │   ├── UnknownPlugin        a name no installed distribution offers
    │   ├── BadConfig            a key, a value or a reference that is wrong
    │   ├── MissingPort          a plugin needs what no other plugin offers
    │   └── OrderViolation       an entry stands where its constraint forbids
    ├── ClientError              the request is at fault
    │   ├── BadRequest 400 · Unauthenticated 401 · Forbidden 403 · UnknownModel 404
    │   └── NotServed 404 · TooLarge 413 · UnsupportedEncoding 415 · Untranslatable 422
    ├── LimitError               policy refuses
    │   └── RateLimited 429 · BudgetExceeded 429 · BudgetReserved 429 · Overloaded 503
    ├── UpstreamError            the vendor, or the way to it, failed
    │   ├── Unreachable 502      nothing was sent: safe to try elsewhere
    │   ├── UpstreamTimeout 504  a deadline fired; `phase` says which
    │   ├── Malformed 502        not HTTP, or not what the dialect allows
    │   ├── Refused              a status of the upstream's own; body kept
    │   └── Broken 502           the connection ended inside an answer
    ├── StoreUnavailable 503     a store that a decision needs does not answer; nothing was decided
    └── PluginFault 500          an exception nobody named; hidden from clients

Raised, never returned; written in the *client's* dialect by the Gateway alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

MISSHAPEN: Final = (KeyError, TypeError, AttributeError, IndexError, ValueError)
"""What reading a document of another shape comes to."""


class GatewayError(Exception):
    """Root of every named failure.

    Attributes:
        code: stable slug for machines, e.g. ``unknown_model``.
        status: HTTP status the client receives.
        message: text for humans; never holds a secret or a prompt.
        retry_after: seconds after which a retry can succeed, if known.
        plugin: name of the plugin that raised, if one did.
        headers: further response headers (lower-case name, value).
    """

    code: ClassVar[str] = "gateway_error"
    status: int = 500

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        plugin: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.plugin = plugin
        self.headers = headers


class AssemblyError(GatewayError):
    """A stack that cannot be built; shown by ``gwcore check``, never on the wire."""

    code = "assembly_error"


class UnknownPlugin(AssemblyError):
    """The stack file names a plugin, provider or dialect that is not installed."""

    code = "unknown_plugin"


class BadConfig(AssemblyError):
    """A key, a value or a reference in the stack file is wrong."""

    code = "bad_config"


class MissingPort(AssemblyError):
    """A plugin requires a port that no plugin of the stack offers."""

    code = "missing_port"


class OrderViolation(AssemblyError):
    """A plugin stands outside one it must stand inside of, or the reverse."""

    code = "order_violation"


class ClientError(GatewayError):
    """The request itself is at fault; sending it again unchanged fails again."""

    code = "client_error"
    status = 400


class BadRequest(ClientError):
    """400: the body, a header or a parameter cannot be understood."""

    code = "invalid_request"


class Unauthenticated(ClientError):
    """401: no credential, or one that is not known."""

    code = "unauthenticated"
    status = 401


class Forbidden(ClientError):
    """403: known, but not allowed."""

    code = "forbidden"
    status = 403


class UnknownModel(ClientError):
    """404: no entry of ``models`` matches the name."""

    code = "model_not_found"
    status = 404


class NotServed(ClientError):
    """404: no such address."""

    code = "not_found"
    status = 404


class TooLarge(ClientError):
    """413: the body, as sent or once decoded, is over the cap."""

    code = "request_too_large"
    status = 413


class UnsupportedEncoding(ClientError):
    """415: a content-encoding the gateway does not decode."""

    code = "unsupported_encoding"
    status = 415


class Untranslatable(ClientError):
    """422: something in the request cannot be said in the upstream's dialect.

    Attributes:
        what: the client's name for it, where it is one thing; a dialect may have words of its own for its absence.
    """

    code = "untranslatable"
    status = 422
    what: str | None = None


class LimitError(GatewayError):
    """Policy refuses the call."""

    code = "limited"
    status = 429


class RateLimited(LimitError):
    """429: a rate or concurrency limit; ``retry_after`` is exact."""

    code = "rate_limited"


class BudgetExceeded(LimitError):
    """429: money is spent; a retry before the window resets is useless."""

    code = "budget_exceeded"


class BudgetReserved(LimitError):
    """429: what is left of a budget is held by calls under way; ``retry_after`` says when one is likely to have ended."""

    code = "budget_reserved"


class Overloaded(LimitError):
    """503: the gateway sheds load, drains or has not started."""

    code = "overloaded"
    status = 503


class UpstreamError(GatewayError):
    """The vendor, or the way to it, failed.

    Attributes:
        sent: whether a byte of the request may have reached the upstream. ``False`` proves that
            nothing was executed there, so any retry is free of double billing.
    """

    code = "upstream_error"
    status = 502
    retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, sent: bool = True, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.sent = sent


class Unreachable(UpstreamError):
    """502: name resolution, connect or TLS failed; nothing was sent."""

    code = "upstream_unreachable"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class Exhausted(Unreachable):
    """503: this process may open no more files or connections; no fault of the upstream's, and nothing was sent."""

    code = "gateway_exhausted"
    status = 503


class UpstreamTimeout(UpstreamError):
    """504: a deadline fired. ``phase`` is ``connect``, ``first_byte``, ``idle`` or ``total``."""

    code = "upstream_timeout"
    status = 504

    def __init__(self, message: str, *, phase: str, sent: bool = True) -> None:
        super().__init__(message, sent=sent)
        self.phase = phase


class Malformed(UpstreamError):
    """502: the upstream spoke something that is not HTTP/1.1 or breaks a size cap."""

    code = "upstream_malformed"


class Broken(UpstreamError):
    """502: the connection ended before the answer did."""

    code = "upstream_broken"


class Refused(UpstreamError):
    """The upstream answered with an error of its own.

    Attributes:
        status: the upstream's status.
        body: the upstream's body; a client of the same ``dialect`` receives it unmodified.
        raw_headers: those of the upstream's headers that may reach the client.
        said: the upstream's own words for what a client of another dialect shall see, too: ``type``, ``code``, ``param``.
    """

    code = "upstream_refused"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: bytes = b"",
        headers: list[tuple[bytes, bytes]] | None = None,
        dialect: str | None = None,
        said: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.said = said or {}
        self.status = status
        self.body = body
        self.raw_headers = headers or []
        self.dialect = dialect


class StoreUnavailable(GatewayError):
    """503: a store that a decision needs does not answer. Never told as a 401 or a 429: nothing was decided."""

    code = "store_unavailable"
    status = 503


class Abandoned(GatewayError):
    """Of an attempt alone, never answered: nobody waits for it any more. Its client left, or another attempt was first."""

    code = "abandoned"

    def __init__(self, message: str = "nobody waits for this attempt any more") -> None:
        super().__init__(message)


class PluginFault(GatewayError):
    """500: an exception nobody named. The log has its type and its place, and nobody its text, which may quote a prompt."""

    code = "internal_error"

    def __init__(self, plugin: str | None = None) -> None:
        super().__init__("internal error of the gateway", plugin=plugin)

"""Every named failure, as one tree.

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
    ├── LimitError               rejected by policy
    │   └── RateLimited 429 · BudgetExceeded 429 · BudgetReserved 429 · Overloaded 503
    ├── UpstreamError            the vendor, or the way to it, failed
    │   ├── Unreachable 502      nothing was sent: safe to try elsewhere
    │   ├── UpstreamTimeout 504  a deadline fired; `phase` says which
    │   ├── Malformed 502        not HTTP, or not what the dialect allows
    │   ├── Refused              the upstream's own error status; body kept
    │   └── Broken 502           the connection ended inside an answer
    ├── StoreUnavailable 503     a store needed for a decision does not answer; nothing was decided
    └── PluginFault 500          an unexpected exception; hidden from clients

Raised, never returned; written in the *client's* dialect by the Gateway alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

MISSHAPEN: Final = (KeyError, TypeError, AttributeError, IndexError, ValueError)
"""What reading a document of an unexpected shape raises."""


class GatewayError(Exception):
    """Base of every named failure.

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
    """The stack cannot be built; shown by ``gwcore check``, never on the wire."""

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
    """A plugin stands outside one it must be inside of, or the reverse."""

    code = "order_violation"


class ClientError(GatewayError):
    """The request itself is at fault; retrying it unchanged fails again."""

    code = "client_error"
    status = 400


class BadRequest(ClientError):
    """400: the body, a header or a parameter cannot be understood."""

    code = "invalid_request"


class Unauthenticated(ClientError):
    """401: no credential, or an unknown one."""

    code = "unauthenticated"
    status = 401


class Forbidden(ClientError):
    """403: authenticated, but not allowed."""

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
    """413: the body, as sent or once decoded, exceeds the cap."""

    code = "request_too_large"
    status = 413


class UnsupportedEncoding(ClientError):
    """415: a content-encoding the gateway does not decode."""

    code = "unsupported_encoding"
    status = 415


class Untranslatable(ClientError):
    """422: something in the request cannot be expressed in the upstream's dialect.

    Attributes:
        what: the client's name for it, where it is a single thing; a dialect may have its own error text for its
            absence.
    """

    code = "untranslatable"
    status = 422
    what: str | None = None


class LimitError(GatewayError):
    """The call is rejected by policy."""

    code = "limited"
    status = 429


class RateLimited(LimitError):
    """429: a rate or concurrency limit; ``retry_after`` is exact."""

    code = "rate_limited"


class BudgetExceeded(LimitError):
    """429: the budget is spent; a retry before the window resets is useless."""

    code = "budget_exceeded"


class BudgetReserved(LimitError):
    """429: the rest of the budget is reserved by calls in flight; ``retry_after`` is when one has probably ended."""

    code = "budget_reserved"


class Overloaded(LimitError):
    """503: the gateway is shedding load, draining or not yet started."""

    code = "overloaded"
    status = 503


class UpstreamError(GatewayError):
    """The vendor, or the way to it, failed.

    Attributes:
        sent: whether a byte of the request may have reached the upstream. ``False`` proves that
            nothing was executed there, so a retry cannot be billed twice.
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
    """503: this process is out of files or connections; not the upstream's fault, and nothing was sent."""

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
    """502: the upstream's response is not valid HTTP/1.1 or exceeds a size cap."""

    code = "upstream_malformed"


class Broken(UpstreamError):
    """502: the connection closed before the answer was complete."""

    code = "upstream_broken"


class Refused(UpstreamError):
    """The upstream answered with an error of its own.

    Attributes:
        status: the upstream's status.
        body: the upstream's body; a client of the same ``dialect`` receives it unmodified.
        raw_headers: the upstream's headers that may reach the client.
        said: the upstream's own ``type``, ``code`` and ``param``, for clients of another dialect to see too.
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
    """503: a store needed for a decision does not answer. Never reported as 401 or 429: nothing was decided."""

    code = "store_unavailable"
    status = 503


class Abandoned(GatewayError):
    """Attempts only, never sent: nobody waits for it any more. The client left, or another attempt was first."""

    code = "abandoned"

    def __init__(self, message: str = "nobody waits for this attempt any more") -> None:
        super().__init__(message)


class PluginFault(GatewayError):
    """500: an unexpected exception. Only its type and location are logged, never its text, which may quote a prompt."""

    code = "internal_error"

    def __init__(self, plugin: str | None = None) -> None:
        super().__init__("internal error of the gateway", plugin=plugin)


def leave_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes, once nobody needs them: their frames hold the call and the error itself."""
    chain = [error]
    for one in chain:
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            chain += (one.__cause__, one.__context__)

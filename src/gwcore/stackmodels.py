"""Pydantic models of the stack file: every key but the settings of plugins and the options of providers.

:func:`gwcore.config.read` fills them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SerializeAsAny,
    WithJsonSchema,
    model_validator,
)

from gwcore.pricemodels import ModelPrices
from gwcore.resources import SCHEMES
from gwcore.units import Duration, FileRef, Size, fault, suggest
from gwcore.wire.transport import Origin, Timeouts, Tls

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = {"host", "content-length", "transfer-encoding", "connection"}
_APP = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_VARIABLE = re.compile(r"\$[A-Z_][A-Z0-9_]+|os\.environ/\w+")  # as shells and LiteLLM write a reference
_DEADLINES = Timeouts()
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Words = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=list[str] | str)]


class When(_Strict):
    """Conditions that select calls. Every list that is given must match; within a list, one match is enough.

    When a call starts (``call_started`` of a watching plugin), its caller is not known yet, and so the tags of keys and
    teams are not either. A request that could not be parsed has no model.
    """

    models: _Words = Field(
        default=[],
        description="Names of the requested model; `*` matches any text. Plugins listed after `auth` and `rules` see "
        "the name by which these replaced it.",
    )
    operations: _Words = Field(
        default=[], description="Operations, such as `chat` or `embeddings`; the README of gwcore-providers lists them."
    )
    dialects: _Words = Field(
        default=[],
        description="Dialects (API formats) of the client; `gwcore plugins` lists them.",
    )
    tags: _Words = Field(
        default=[],
        description="Tags of the call: from the header `x-gwcore-tags` and, for plugins listed after `auth`, from its "
        "key, user, team and organisation.",
    )


class Entry(_Strict):
    """``<plugin>: {settings}``, or just ``<plugin>``; ``when:`` goes next to it, not into the settings.

    A plugin's README and ``docs/reference/plugins.md`` list its settings. ::

        - <plugin>
        - <plugin>: {option: value}
          when: {models: "fast-*", operations: [chat]}
    """

    name: str = Field(description="Name of the plugin.")
    config: SerializeAsAny[BaseModel] = Field(description="Settings of the plugin, as its own model.")
    when: When | None = Field(default=None, description="Calls to which the plugin applies; without it, every call.")
    loc: tuple[str | int, ...] = Field(default=(), description="Position in the file, e.g. (stack, 1).")


def _importable(app: str) -> str:
    if not _APP.fullmatch(app):
        raise fault("is not the address of a class", "write package.module:Class")
    return app


class AsgiEntry(_Strict):
    """A plain ASGI middleware around the gateway: ``app(inner, **options)``."""

    app: Annotated[str, AfterValidator(_importable)] = Field(
        description="Import path of the middleware class: `package.module:Class`."
    )
    options: dict[str, Any] = Field(default={}, repr=False, description="Keyword arguments for the class.")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"app": value}
        if isinstance(value, dict) and len(value) == 1 and isinstance((only := next(iter(value.values()))) or {}, dict):
            return {"app": next(iter(value)), "options": only or {}}
        raise fault("is not one middleware", 'write "package.module:Class", or {"package.module:Class": {option: …}}')


class TimeoutConfig(_Strict):
    """Deadlines of one upstream request, such as ``30s``. ``null`` means none. One that fires is a 504."""

    connect: Duration | None = Field(
        default=_DEADLINES.connect, description="Time for name resolution, TCP and TLS handshake together."
    )
    first_byte: Duration | None = Field(
        default=_DEADLINES.first_byte, description="Time from the last byte of the request to the head of the response."
    )
    idle: Duration | None = Field(
        default=_DEADLINES.idle, description="Longest time without data while the response body is read."
    )
    total: Duration | None = Field(
        default=_DEADLINES.total,
        description="Time for the whole request, the response body included. No limit by default, since streams may "
        "be long.",
    )


class TlsConfig(_Strict):
    """How the certificate of an https upstream is verified."""

    ca_file: FileRef | None = Field(
        default=None,
        description="PEM file with the CA certificates to trust instead of the system's; a relative path starts from "
        "the stack file's folder.",
    )
    verify: bool = Field(
        default=True, description="`false` accepts any certificate; permitted only if `base_url` is a loopback address."
    )


def _url(url: str) -> str:
    mend = "write it like http://host:port/path; a key belongs under api_key"
    try:
        Origin.of(url)
    except ValueError:
        raise fault("is not an http(s) URL without credentials", mend) from None
    if "?" in url or "#" in url or re.search(r"\s", url):
        raise fault("is not an http(s) URL without a query", mend)
    return url


def _proxy(url: str) -> str:
    if not re.fullmatch(r"(https?|socks5h?)://\S+", url):
        raise fault("is not the URL of a proxy", "write it like http://host:port")
    return url


def _key(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if not value:
        raise fault("is empty", "leave api_key out when the upstream needs none")
    if _VARIABLE.fullmatch(value):
        raise fault("is the name of a variable, not a key", 'write "${NAME}" to read the variable NAME')
    if not value.isascii() or not value.isprintable() or " " in value:
        raise fault("contains a space or a character that no key has", "check where the key was copied from")
    return secret


def _header_name(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
        raise fault("is not a header that can be set", f"use a plain name; none of {', '.join(sorted(_FRAMING))}")
    return name


def _header_value(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\t -~\x80-\xff]*", secret.get_secret_value()):
        raise fault("contains a character that headers may not contain", "remove line breaks and control characters")
    return secret


def _scalar_timeout(value: Any) -> Any:
    return value if isinstance(value, Mapping | TimeoutConfig) else {"first_byte": value}


_HeaderName = Annotated[str, AfterValidator(_header_name)]
_HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]


_Key = Annotated[SecretStr, AfterValidator(_key)]


class KeyConfig(_Strict):
    """One of several credentials of an upstream."""

    key: _Key = Field(description="API key; write it as `${VAR}` or `${file:path}`.")
    weight: int = Field(default=1, ge=1, le=1000, description="Relative share of the calls that use this key.")


def _as_key(value: Any) -> Any:
    return {"key": value} if isinstance(value, str) else value


class UpstreamConfig(_Strict):
    """One entry of ``upstreams``. Further keys are the provider's own; ``docs/reference/providers.md`` lists them."""

    provider: str = Field(
        description="Vendor or protocol that the upstream speaks; `gwcore plugins` lists those installed."
    )
    api_key: _Key | None = Field(
        default=None,
        description="API key for this upstream; write it as `${VAR}` or `${file:path}`. Leave it out if the upstream "
        "needs none.",
    )
    api_keys: list[Annotated[KeyConfig, BeforeValidator(_as_key, json_schema_input_type=KeyConfig | str)]] = Field(
        default=[],
        repr=False,
        description="Several keys instead of `api_key`, each a text or `{key, weight}`. The plugin `fallback` "
        "distributes calls over them; without it, only the first is used.",
    )
    base_url: Annotated[str, AfterValidator(_url)] | None = Field(
        default=None,
        description="http(s) address of the API, as the vendor's SDK takes it; by default the provider's own.",
    )
    headers: dict[_HeaderName, _HeaderValue] = Field(
        default={}, description="Additional request headers, sent to this upstream only."
    )
    timeout_config: Annotated[
        TimeoutConfig, BeforeValidator(_scalar_timeout, json_schema_input_type=TimeoutConfig | float | str)
    ] = Field(
        default=TimeoutConfig(),
        alias="timeout",
        description="One duration, which is the limit for `first_byte`, or a mapping of the deadlines below.",
    )
    dialect: str | None = Field(
        default=None,
        description="Send every chat in this dialect (API format), and translate it where the client uses another. By "
        "default the client's own dialect is used if the provider serves it.",
    )
    optional: bool = Field(
        default=False,
        description="`true`: if `api_key` is empty (its variable is not set), leave the upstream out, and remove it "
        "from `models`. Not for upstreams with `api_keys`.",
    )
    models: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="Models that the upstream serves. They are listed by `GET /v1/models`, and clients may name them "
        "without `upstream/`.",
    )
    prices: dict[Annotated[str, Field(min_length=1)], ModelPrices] = Field(
        default={},
        description="Prices and limits by model name (`*` is a wildcard), or `free`. They override the price "
        "catalogue; budgets and costs are only as right as these.",
    )
    tls_config: TlsConfig = Field(
        default=TlsConfig(), alias="tls", description="Verification of the certificate of an https upstream."
    )
    proxy: Annotated[str, AfterValidator(_proxy)] | None = Field(
        default=None,
        repr=False,
        description="URL of an http, https or socks5 proxy for requests to this upstream; without it, they go direct.",
    )
    http2: bool = Field(
        default=False, description="`true` speaks HTTP/2. The default is HTTP/1.1, which is faster in this gateway."
    )
    options: SerializeAsAny[BaseModel] | None = Field(
        default=None, description="The provider's own keys, as its model."
    )

    @property
    def timeouts(self) -> Timeouts:
        """``timeout`` for the transport, in seconds."""
        t = self.timeout_config
        return Timeouts(t.connect, t.first_byte, t.idle, t.total)

    @property
    def tls(self) -> Tls:
        """``tls`` for the transport."""
        return Tls(self.tls_config.ca_file, self.tls_config.verify)

    @model_validator(mode="after")
    def _one_way(self) -> UpstreamConfig:
        if self.api_key and self.api_keys:
            raise fault("has both api_key and api_keys", "keep one of them")
        return self

    @model_validator(mode="after")
    def _verified(self) -> UpstreamConfig:
        if not self.tls_config.verify and not (self.base_url and is_loopback(Origin.of(self.base_url).host)):
            raise fault(
                "accepts any certificate, which only a loopback address may",
                "set tls.ca_file to the CA that signed it, and remove verify: false",
            )
        return self


class ServerConfig(_Strict):
    """Address, limits and timeouts of the HTTP server of ``gwcore run``."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on. Anything but loopback needs a plugin that authenticates, or `open: true`.",
    )
    port: int = Field(default=4000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    open: bool = Field(
        default=False,
        description="`true` permits a stack without authentication on an address that others can reach, and requests "
        "from websites in a browser. Whoever reaches the port spends your money: set it only if something "
        "else authenticates.",
    )
    max_body: Size = Field(
        default=20_000_000, gt=0, description="Largest request body, after decompression; a larger one is a 413."
    )
    body_memory: Literal["auto"] | Annotated[Size, Field(gt=0)] | None = Field(
        default="auto",
        description="Bytes of request bodies over 64 KiB that a worker holds at a time, for calls in flight. A further "
        "such call waits up to 5 s for its turn, then gets 503, before its body is read. Memory use is up to four "
        "times that. `auto` is an eighth of the memory of the container or machine, shared among its workers; "
        "`null` for no limit.",
    )
    json_depth: int = Field(
        default=64, ge=1, le=1000, description="Deepest nesting of a JSON body; a deeper one is a 400."
    )
    json_items: int = Field(
        default=1_000_000,
        ge=1000,
        description="Maximum number of commas and opening brackets in a JSON body, including those inside strings; it "
        "bounds the memory for parsing. More are a 400.",
    )
    drain: Duration = Field(
        default=30.0,
        description="How long calls in flight may take to finish after SIGTERM; then they are cut. The process "
        "manager's kill timeout must be at least 25 s longer.",
    )
    header_timeout: Duration = Field(
        default=10.0, gt=0, description="Time for a client to send the request head; then 408."
    )
    body_timeout: Duration = Field(
        default=30.0, gt=0, description="Time for a client to send the request body; then 408. See `min_body_rate`."
    )
    write_timeout: Duration = Field(
        default=30.0,
        gt=0,
        description="How long a client may leave the write buffer full, that is, not read its answer. Then its "
        "connection is reset, and its call ends as if it had disconnected.",
    )
    min_body_rate: Size = Field(
        default=10_000,
        gt=0,
        description="Bytes per second at which a request body may take longer than `body_timeout`, and a slow reader "
        "longer than `write_timeout`.",
    )
    max_headers: int = Field(default=100, ge=1, description="Maximum number of headers in a request; more are a 431.")
    max_head: Size = Field(
        default=32_768, ge=1024, description="Largest request head (request line and headers); a larger one is a 431."
    )
    max_connections: int = Field(
        default=20_000, ge=1, description="Maximum number of client connections per worker; further ones get 503."
    )
    max_connections_per_ip: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Maximum number of connections of one client address per worker; `null` for no limit. Leave it "
        "unset behind a proxy: all clients then have its address.",
    )
    max_inflight: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Maximum number of calls in flight per worker; further ones get 503. `null` for no limit.",
    )
    max_lag: Annotated[Duration, Field(gt=0)] | None = Field(
        default=1.0,
        description="Load shedding: new calls get 503 while the event loop is late by more than this. `null` turns it "
        "off.",
    )
    keepalive: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="Silence after which an event stream gets an SSE comment, so that proxies do not cut it; `null` "
        "sends none. The first comment sends status 200, so a later error can only be an event of the "
        "stream.",
    )
    cost: Literal["auto", "header", "stream"] = Field(
        default="auto",
        description="Whether answers state their cost in `x-gwcore-cost-usd`: `auto` on non-streaming answers if a "
        "plugin needs prices, `header` on all of them, `stream` also as the last comment of an event "
        "stream.",
    )
    watch: bool = Field(default=False, description="`true` reloads when the stack file changes, as SIGHUP does.")


def _store_url(url: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*:", url):
        raise fault("is not the URL of a store", "write it like redis://host:6379/0, or memory:")
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        mend = suggest(scheme, SCHEMES, f"begin it with: {', '.join(SCHEMES)}")
        if "sentinel" in scheme or "cluster" in scheme:
            mend = "name one server, or a proxy: redis://host:6379/0; Redis Sentinel and Cluster are not supported"
        raise fault("has a scheme that no store has", mend)
    return url


def _meaning(value: Any) -> Any:
    return value if value == "pass" or isinstance(value, list) else [value]


_StoreUrl = Annotated[str, AfterValidator(_store_url)]
_Name = Annotated[str, Field(pattern=_NAME)]
_Meaning = Annotated[
    list[str] | Literal["pass"],
    BeforeValidator(_meaning),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class StackConfig(_Strict):
    """The keys at the top level of the stack file."""

    gwcore: Literal[1] = Field(description="Version of the file format; always 1.")
    stores: dict[_Name, _StoreUrl] = Field(
        default={},
        repr=False,
        description="Stores by name, each a URL: `sqlite:///file`, `postgresql://…`, `redis://…` or `memory:`. "
        "`memory` and `book` (`sqlite:///gwcore.db`) exist without being written. A SQLite path with "
        "three slashes starts from the working directory, one with four is absolute.",
    )
    upstreams: dict[_Name, UpstreamConfig] = Field(
        default={}, description="Upstreams by name: the APIs to which calls are sent."
    )
    models: dict[str, _Meaning] = Field(
        default={},
        description="Names that clients may request: each stands for `upstream/model`, for a list of them in order, "
        "or is `pass`: already written as `upstream/model`. `*` matches any text. Without this section "
        "every name is passed.",
    )
    stack: list[Entry] = Field(
        default=[],
        description="Plugins that calls pass through, outermost first; this order is the order in which they run.",
    )
    watch: list[Entry] = Field(default=[], description="Plugins that only observe calls: logs, metrics, alerts.")
    asgi: list[AsgiEntry] = Field(
        default=[],
        description="ASGI middlewares around the gateway, outermost first: `package.module:Class`, or "
        "`{package.module:Class: {option: value}}`.",
    )
    server: ServerConfig = Field(default=ServerConfig(), description="Address, limits and timeouts of the HTTP server.")


STORES_THERE: Final = {"memory": "memory:", "book": "sqlite:///gwcore.db"}
"""The stores that every stack has; none is opened unless a plugin uses it. ``book`` is for keys and money; its file is
in the working directory unless ``stores`` overrides it."""

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
    """The calls that an entry applies to. Every given list must match; within a list, one match is enough.

    It applies to layers and taps alike. For ``call_started`` it is evaluated with what is known then, which may lack
    tags; a request that could not be parsed has no model.
    """

    models: _Words = Field(default=[], description="names of models as clients write them; * stands for any text")
    operations: _Words = Field(default=[], description="operations, such as chat or embeddings")
    dialects: _Words = Field(default=[], description="names of the client's wire format")
    tags: _Words = Field(default=[], description="tags of the call, from the x-gwcore-tags header")


class Entry(_Strict):
    """``<plugin>: {settings}``, or just ``<plugin>``; ``when:`` goes next to it, not into the settings.

    A plugin's README lists its settings. ::

        - <plugin>
        - <plugin>: {option: value}
          when: {models: "fast-*", operations: [chat]}
    """

    name: str = Field(description="the plugin's name")
    config: SerializeAsAny[BaseModel] = Field(description="its settings, as its own model")
    when: When | None = Field(default=None, description="for which calls it is there; all by default")
    loc: tuple[str | int, ...] = Field(default=(), description="where it stands in the file, e.g. (stack, 1)")


def _importable(app: str) -> str:
    if not _APP.fullmatch(app):
        raise fault("is not the address of a class", "write package.module:Class")
    return app


class AsgiEntry(_Strict):
    """A plain ASGI middleware around the gateway: ``app(inner, **options)``."""

    app: Annotated[str, AfterValidator(_importable)] = Field(description="package.module:Class")
    options: dict[str, Any] = Field(default={}, repr=False, description="keyword arguments of the class")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"app": value}
        if isinstance(value, dict) and len(value) == 1 and isinstance((only := next(iter(value.values()))) or {}, dict):
            return {"app": next(iter(value)), "options": only or {}}
        raise fault("is not one middleware", 'write "package.module:Class", or {"package.module:Class": {option: …}}')


class TimeoutConfig(_Strict):
    """Deadlines of one upstream request. ``null`` waits for ever."""

    connect: Duration | None = Field(default=_DEADLINES.connect, description="name resolution, TCP and TLS together")
    first_byte: Duration | None = Field(default=_DEADLINES.first_byte, description="last request byte to response head")
    idle: Duration | None = Field(default=_DEADLINES.idle, description="between two reads of the answer")
    total: Duration | None = Field(
        default=_DEADLINES.total, description="the whole request; off, since streams are long"
    )


class TlsConfig(_Strict):
    """How an https upstream is verified."""

    ca_file: FileRef | None = Field(
        default=None, description="PEM bundle instead of the system's, relative to the stack file"
    )
    verify: bool = Field(default=True, description="false accepts any certificate; loopback upstreams only")


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
        raise fault("is the name of a variable, and no key", 'write "${NAME}" to read the variable NAME')
    if not value.isascii() or not value.isprintable() or " " in value:
        raise fault("holds a blank or a character that no key has", "check where the key was copied from")
    return secret


def _header_name(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
        raise fault("is not a header that can be set", f"use a plain name; none of {', '.join(sorted(_FRAMING))}")
    return name


def _header_value(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\t -~\x80-\xff]*", secret.get_secret_value()):
        raise fault("holds a character that no header may hold", "remove line breaks and control characters")
    return secret


def _scalar_timeout(value: Any) -> Any:
    return value if isinstance(value, Mapping | TimeoutConfig) else {"first_byte": value}


_HeaderName = Annotated[str, AfterValidator(_header_name)]
_HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]


_Key = Annotated[SecretStr, AfterValidator(_key)]


class KeyConfig(_Strict):
    """One of several credentials of an upstream."""

    key: _Key = Field(description="the credential; best written as ${VAR} or ${file:path}")
    weight: int = Field(default=1, ge=1, le=1000, description="its share of the calls")


def _as_key(value: Any) -> Any:
    return {"key": value} if isinstance(value, str) else value


class UpstreamConfig(_Strict):
    """One entry of ``upstreams``. Any other keys are the provider's own options."""

    provider: str = Field(description="which vendor or protocol this is")
    api_key: _Key | None = Field(default=None, description="the credential; best written as ${VAR} or ${file:path}")
    api_keys: list[Annotated[KeyConfig, BeforeValidator(_as_key, json_schema_input_type=KeyConfig | str)]] = Field(
        default=[],
        repr=False,
        description="several credentials instead of one, as keys or {key, weight}; a router spreads calls over them",
    )
    base_url: Annotated[str, AfterValidator(_url)] | None = Field(
        default=None, description="http(s) address; the provider's own by default"
    )
    headers: dict[_HeaderName, _HeaderValue] = Field(
        default={}, description="further headers, sent to this origin only"
    )
    timeout_config: Annotated[
        TimeoutConfig, BeforeValidator(_scalar_timeout, json_schema_input_type=TimeoutConfig | float | str)
    ] = Field(default=TimeoutConfig(), alias="timeout", description="a duration for the first byte, or each deadline")
    dialect: str | None = Field(
        default=None,
        description="speak this dialect to it, whatever the client's; by default the client's own if served",
    )
    optional: bool = Field(
        default=False, description="leave it out, with the models that name it, where its api_key is empty"
    )
    models: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="models this upstream serves, for listings and for names without a prefix"
    )
    prices: dict[Annotated[str, Field(min_length=1)], ModelPrices] = Field(
        default={}, description="model or wildcard to its prices and limits, or to free; over what the catalogue knows"
    )
    tls_config: TlsConfig = Field(default=TlsConfig(), alias="tls", description="how https is verified")
    proxy: Annotated[str, AfterValidator(_proxy)] | None = Field(
        default=None, repr=False, description="http, https or socks5 proxy to go through"
    )
    http2: bool = Field(default=False, description="speak HTTP/2; the default is HTTP/1.1, which is faster here")
    options: SerializeAsAny[BaseModel] | None = Field(default=None, description="the provider's own keys, as its model")

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
            raise fault("accepts any certificate", "set tls.ca_file to the CA that signed it, and remove verify: false")
        return self


class ServerConfig(_Strict):
    """How the gateway listens, and what it accepts."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=4000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    open: bool = Field(
        default=False, description="allow a stack without authentication beyond loopback, and to websites in a browser"
    )
    max_body: Size = Field(default=20_000_000, gt=0, description="largest request body, decoded")
    json_depth: int = Field(default=64, ge=1, le=1000, description="deepest nesting of a JSON body")
    json_items: int = Field(
        default=1_000_000,
        ge=1000,
        description="most commas and opening brackets in a JSON body, those in texts included",
    )
    drain: Duration = Field(default=30.0, description="how long running calls may take to end at shutdown")
    header_timeout: Duration = Field(default=10.0, gt=0, description="for the whole request head")
    body_timeout: Duration = Field(default=30.0, gt=0, description="for the whole request body")
    write_timeout: Duration = Field(
        default=30.0, gt=0, description="for a client that does not read its answer; then it counts as gone"
    )
    min_body_rate: Size = Field(
        default=10_000, gt=0, description="bytes per second at which bodies, either way, may take longer than that"
    )
    max_headers: int = Field(default=100, ge=1, description="most headers in a request")
    max_head: Size = Field(default=32_768, ge=1024, description="largest request head")
    max_connections: int = Field(default=20_000, ge=1, description="most client connections per worker")
    max_connections_per_ip: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="most of one address per worker; null for no limit, as behind a proxy all have one"
    )
    max_inflight: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="most calls under way per worker, the next are refused with 503; null for no limit"
    )
    max_lag: Annotated[Duration, Field(gt=0)] | None = Field(
        default=1.0,
        description="new calls are refused with 503 while the event loop runs later than this; null for no limit",
    )
    keepalive: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="silence after which a stream gets an SSE comment; null sends none"
    )
    cost: Literal["auto", "header", "stream"] = Field(
        default="auto",
        description="x-gwcore-cost-usd on answers: auto where a plugin needs prices anyway, header always, "
        "stream also as the last comment of an event stream",
    )
    watch: bool = Field(default=False, description="reload when the stack file changes; for development")


def _store_url(url: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*:", url):
        raise fault("is not the URL of a store", "write it like redis://host:6379/0, or memory:")
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        mend = suggest(scheme, SCHEMES, f"begin it with: {', '.join(SCHEMES)}")
        if "sentinel" in scheme or "cluster" in scheme:
            mend = (
                "name one server, or a proxy that knows which: redis://host:6379/0; Sentinel and Cluster are not asked"
            )
        raise fault("is of a kind that no store is", mend)
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
    """The whole stack file, read and checked."""

    gwcore: Literal[1] = Field(description="version of this format: 1")
    stores: dict[_Name, _StoreUrl] = Field(
        default={},
        repr=False,
        description="name to URL; memory and book (sqlite:///gwcore.db) are always there. A SQLite path with three slashes starts from the working directory",
    )
    upstreams: dict[_Name, UpstreamConfig] = Field(default={}, description="name to where calls can go")
    models: dict[str, _Meaning] = Field(
        default={}, description="name to upstream/model, to a list of them in order, or to pass"
    )
    stack: list[Entry] = Field(default=[], description="plugins, outermost first")
    watch: list[Entry] = Field(default=[], description="plugins that only watch")
    asgi: list[AsgiEntry] = Field(default=[], description="plain ASGI middlewares, outermost first")
    server: ServerConfig = Field(default=ServerConfig(), description="how the gateway listens")


STORES_THERE: Final = {"memory": "memory:", "book": "sqlite:///gwcore.db"}
"""The stores that every stack has; none is opened unless a plugin uses it. ``book`` is for keys and money; its file is
in the working directory unless ``stores`` overrides it."""

"""``Grant``: what one credential may do, compiled once and asked on every call."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from gwcore.call import Attempt, Call, Principal, Target
from gwcore.errors import Forbidden, GatewayError, PluginFault, Unauthenticated

Network = IPv4Network | IPv6Network
Row = Mapping[str, Any]

ALL_MODELS = frozenset({"*", "all-proxy-models"})
TEAM_MODELS, NO_MODELS = "all-team-models", "no-default-models"
INFERENCE, MANAGEMENT, READING = "llm_api_routes", "management_routes", "info_routes"
_SAID_OTHERWISE = {"google_routes": "gemini_routes"}  # LiteLLM's group → by the dialect's name, as the others are
_REMEMBERED = 256
_NAMING = frozenset({"models", "fallbacks", "providerOptions", "tools"})


class ModelNotAllowed(Forbidden):
    """403: the credential, or one of those it belongs to, may not use this model."""

    code = "model_access_denied"


class KeyExpired(Unauthenticated):
    """401: the key was right, and its time is over."""

    code = "expired_key"


class Blocked(Unauthenticated):
    """401: the key is right, and it or somebody it belongs to is blocked."""

    code = "blocked"


def _wild(words: Iterable[str]) -> re.Pattern[str] | None:
    """Those with a ``*``, as one expression that goes back over no text: users write them, and clients what they are held against."""
    found = [translate(word.replace("[", "[[]").replace("?", "[?]")) for word in words if "*" in word]
    return re.compile("|".join(found)) if found else None


class ModelRule:
    """An allow-list of models: exact names, and patterns in which ``*`` stands for any text. Case counts."""

    __slots__ = ("_exact", "_patterns", "_seen", "names", "whose")

    def __init__(self, whose: str, names: Sequence[str]) -> None:
        self.whose = whose
        self.names = tuple(names)
        self._exact = frozenset(name for name in names if "*" not in name)
        self._patterns = _wild(names)
        self._seen: dict[str, bool] = {}

    def allows(self, name: str) -> bool:
        """Whether the list has the name."""
        if name in self._exact:
            return True
        if self._patterns is None:
            return False
        known = self._seen.get(name)
        if known is None:
            known = self._patterns.match(name) is not None
            if len(self._seen) < _REMEMBERED:  # the names are typed by clients
                self._seen[name] = known
        return known


def model_rule(whose: str, names: Sequence[str]) -> ModelRule | None:
    """The rule of a list as it is stored: an empty list, ``*`` and ``all-proxy-models`` allow everything."""
    if not names or not ALL_MODELS.isdisjoint(names):
        return None
    if TEAM_MODELS in names:  # what the team allows, which its own rule says
        return None
    return ModelRule(whose, [name for name in names if name != NO_MODELS])


_GROUPS = {
    "llm_api": (INFERENCE,),
    "management": (MANAGEMENT, READING),
    "read_only": (READING,),
}


def words_of(routes: Iterable[str], kind: str) -> list[str]:
    """Which addresses a key may use, by its list and its kind together; empty for all."""
    return [*routes, *_GROUPS.get(kind, ())]


class RouteRule:
    """An allow-list of addresses: paths (``*`` for any text), operations (``chat``), and LiteLLM's groups of routes."""

    __slots__ = ("_inference", "_patterns", "_words")

    def __init__(self, words: Iterable[str]) -> None:
        listed = [_SAID_OTHERWISE.get(word, word) for word in words]
        self._words = frozenset(word for word in listed if "*" not in word)
        self._inference = INFERENCE in self._words
        self._patterns = _wild(listed)

    def serves(self, call: Call) -> bool:
        """Whether the list has one of the names an inference call goes by."""
        if self._inference:
            return True
        dialect = call.dialect.name.partition(".")[0]
        return self.allows(call.path, call.route.path, call.operation, INFERENCE, f"{dialect}_routes")

    def allows(self, *names: str) -> bool:
        """Whether the list has one of the names a request goes by."""
        if not self._words.isdisjoint(names):
            return True
        return self._patterns is not None and any(map(self._patterns.match, names))


@dataclass(slots=True, frozen=True, eq=False)
class Grant:
    """What a credential may do.

    Attributes:
        until: second since the epoch from which on the credential is void, or ``None``.
        rules: all of them must allow a model.
        aliases: names a client may write for models.
        networks: from where it may be used; empty for everywhere.
        refusal: why it may do nothing at all.
        depends: (kind, id) of everything this was made of; a change of any makes it void.
    """

    principal: Principal
    until: float | None = None
    rules: tuple[ModelRule, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    routes: RouteRule | None = None
    networks: tuple[Network, ...] = ()
    refusal: GatewayError | None = None
    depends: frozenset[tuple[str, str]] = frozenset()

    def check(self, call: Call, client: str | None) -> None:
        """Whether the credential may make this call at all. Raises ``Unauthenticated`` and ``Forbidden``."""
        if self.refusal is not None:
            # a fresh one: an exception that is raised twice collects the traces of both
            raise type(self.refusal)(self.refusal.message)
        if self.until is not None:
            self.alive(time.time())
        if self.networks and not within(client, self.networks):
            raise Forbidden("this key may not be used from this address")
        if self.routes is not None and not self.routes.serves(call):
            raise Forbidden(f"this key may not call {call.path[:200]}")

    def alive(self, now: float) -> None:
        """Raises ``KeyExpired`` when its time is over; ``now`` in seconds since the epoch."""
        if self.until is not None and now >= self.until:
            raise KeyExpired("Authentication Error - Expired Key.")

    def refuse(self, name: str) -> None:
        """Raises ``ModelNotAllowed`` where a rule does not have the name."""
        for rule in self.rules:
            if not rule.allows(name):
                raise ModelNotAllowed(
                    f"{rule.whose} not allowed to access model. This {rule.whose} can only access "
                    f"models={list(rule.names)}. Tried to access {name[:200]}"
                )

    def permit(self, attempt: Attempt, asked: tuple[Target, ...], names: Callable[[str, str], Sequence[str]]) -> None:
        """Whether this target may be tried; ``asked`` is what the client's own name for the model means.

        A target beyond that was chosen by a router. It needs a permission of its own: as ``upstream/model``, as the
        model's name there, or as one of the ``names`` by which a client could ask for it.
        """
        target, name = attempt.target, attempt.call.model
        for other in _beside(attempt.call.document):
            self._permit_there(f"{target.upstream.name}/{other}", other)
        if name is not None and any(
            t is target or (t.model == target.model and t.upstream.name == target.upstream.name) for t in asked
        ):
            self.refuse(name)
            return
        if not target.model:
            return
        self._permit_there(str(target), target.model, *names(target.upstream.name, target.model))

    def _permit_there(self, here: str, *others: str) -> None:
        for rule in self.rules:
            if not (rule.allows(here) or any(map(rule.allows, others))):
                raise ModelNotAllowed(f"{rule.whose} not allowed to access model {here[:200]}")


def _beside(document: Mapping[str, Any] | None) -> Iterator[str]:
    """Models that a request names beside ``model``, by their upstream's names.

    Brokers take one of ``models`` where the first fails (Vercel's stand in ``providerOptions.gateway``), Anthropic one of
    ``fallbacks``, and some tools of vendors ask a model of their own.
    """
    if document is None or _NAMING.isdisjoint(document):
        return
    options, tools = document.get("providerOptions"), document.get("tools")
    broker = options.get("gateway") if isinstance(options, dict) else None
    for listed in (
        document.get("models"), document.get("fallbacks"), broker.get("models") if isinstance(broker, dict) else None
    ):  # fmt: skip
        for other in listed if isinstance(listed, list) else [listed] if listed else ():
            yield str(other.get("model") or other) if isinstance(other, dict) else str(other)
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and isinstance(tool.get("model"), str):
            yield tool["model"]


def within(client: str | None, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks. What is no address is in none."""
    address = _address(client[:64]) if client else None  # a header may have said it: no long text is kept
    return address is not None and any(address in network for network in networks)


@lru_cache(4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    if text.startswith("["):  # some proxies add the port: 192.0.2.1:4711, [2001:db8::1]:4711
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks as they are written: ``10.0.0.0/8`` or one address. Raises ``ValueError``."""
    return tuple(ip_network(text) for text in texts)


def policies_of(
    scopes: Iterable[tuple[str, Row | None]], models: Mapping[str, type[BaseModel]]
) -> Mapping[str, Mapping[str, Any]]:
    """Stored policies, per plugin and scope, as instances of the plugins' models.

    Raises:
        Forbidden: a policy is stored for a plugin that this stack does not run: what it limits would be unlimited.
        PluginFault: one that was valid when it was written no longer is.
    """
    found: dict[str, dict[str, Any]] = {}
    for scope, row in scopes:
        for plugin, settings in (row["policies"] if row else {}).items():
            if not settings:
                continue
            model = models.get(plugin)
            if model is None:
                raise Forbidden(f"the {scope} has settings for {plugin}, which this gateway does not run")
            try:
                found.setdefault(plugin, {})[scope] = model.model_validate(settings)
            except ValidationError:
                raise PluginFault(plugin) from None
    return found

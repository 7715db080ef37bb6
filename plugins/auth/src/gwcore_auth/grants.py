"""``Grant``: what one credential may do, compiled once and checked on every call."""

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
_SAID_OTHERWISE = {"google_routes": "gemini_routes"}  # LiteLLM's group → named after the dialect, like the others
_REMEMBERED = 256
_NAMING = frozenset({"models", "fallbacks", "providerOptions", "tools"})


class ModelNotAllowed(Forbidden):
    """403: the credential, or a team, user or organisation that it belongs to, may not use this model."""

    code = "model_access_denied"


class KeyExpired(Unauthenticated):
    """401: the key is known but has expired."""

    code = "expired_key"


class Blocked(Unauthenticated):
    """401: the key is known, but it or its team, user, organisation or end user is blocked."""

    code = "blocked"


def _wild(words: Iterable[str]) -> re.Pattern[str] | None:
    """The words with a ``*`` as one pattern without backtracking: users write the words, clients the matched text."""
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
        """Whether the list allows the name."""
        if name in self._exact:
            return True
        if self._patterns is None:
            return False
        known = self._seen.get(name)
        if known is None:
            known = self._patterns.match(name) is not None
            if len(self._seen) < _REMEMBERED:  # bounded, since clients choose the names
                self._seen[name] = known
        return known


def model_rule(whose: str, names: Sequence[str]) -> ModelRule | None:
    """The rule of a stored list; ``None`` if it is empty or has ``*``, ``all-proxy-models`` or ``all-team-models``."""
    if not names or not ALL_MODELS.isdisjoint(names):
        return None
    if TEAM_MODELS in names:  # the team has a rule of its own
        return None
    return ModelRule(whose, [name for name in names if name != NO_MODELS])


_GROUPS = {
    "llm_api": (INFERENCE,),
    "management": (MANAGEMENT, READING),
    "read_only": (READING,),
}


def words_of(routes: Iterable[str], kind: str) -> list[str]:
    """Routes that a key may use, from its list and its kind; empty for all."""
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
        """Whether the list allows an inference call, by any of its names."""
        if self._inference:
            return True
        dialect = call.dialect.name.partition(".")[0]
        return self.allows(call.path, call.route.path, call.operation, INFERENCE, f"{dialect}_routes")

    def allows(self, *names: str) -> bool:
        """Whether the list allows any of a request's names."""
        if not self._words.isdisjoint(names):
            return True
        return self._patterns is not None and any(map(self._patterns.match, names))


@dataclass(slots=True, frozen=True, eq=False)
class Grant:
    """What a credential may do.

    Attributes:
        until: expiry in seconds since the epoch, or ``None``.
        rules: a model must be allowed by all of them.
        aliases: names a client may write for models.
        networks: client addresses it may be used from; empty for all.
        refusal: if set, every call is rejected with it.
        depends: (kind, id) of everything it was built from; a change of any invalidates it.
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
        """Check everything but the model. Raises ``Unauthenticated``, ``Forbidden`` and :attr:`refusal`."""
        if self.refusal is not None:
            # a new instance: one that is raised repeatedly would collect tracebacks
            raise type(self.refusal)(self.refusal.message)
        if self.until is not None:
            self.alive(time.time())
        if self.networks and not within(client, self.networks):
            raise Forbidden("this key may not be used from this address")
        if self.routes is not None and not self.routes.serves(call):
            raise Forbidden(f"this key may not call {call.path[:200]}")

    def alive(self, now: float) -> None:
        """Raise ``KeyExpired`` if expired; ``now`` in seconds since the epoch."""
        if self.until is not None and now >= self.until:
            raise KeyExpired("Authentication Error - Expired Key.")

    def refuse(self, name: str) -> None:
        """Raise ``ModelNotAllowed`` if a rule does not allow the name."""
        for rule in self.rules:
            if not rule.allows(name):
                raise ModelNotAllowed(
                    f"{rule.whose} not allowed to access model. This {rule.whose} can only access "
                    f"models={list(rule.names)}. Tried to access {name[:200]}"
                )

    def permit(self, attempt: Attempt, asked: tuple[Target, ...], names: Callable[[str, str], Sequence[str]]) -> None:
        """Raise ``ModelNotAllowed`` unless this target may be tried; ``asked``: the targets of the client's model name.

        Any other target was chosen by a router and needs its own permission: as ``upstream/model``, as the model's name
        there, or as one of the ``names`` by which a client could request it.
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
    """Models that a request names besides ``model``, by their names at the upstream.

    Brokers fall back to those in ``models`` (Vercel: in ``providerOptions.gateway``), Anthropic to those in
    ``fallbacks``, and some vendor tools call a model of their own.
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
    """Whether an address is in one of the networks; ``False`` for anything that is not an address."""
    address = _address(client[:64]) if client else None  # may come from a header: cache no long text
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
    """Parse networks: ``10.0.0.0/8`` or a single address. Raises ``ValueError``."""
    return tuple(ip_network(text) for text in texts)


def policies_of(
    scopes: Iterable[tuple[str, Row | None]], models: Mapping[str, type[BaseModel]]
) -> Mapping[str, Mapping[str, Any]]:
    """Stored policies, per plugin and scope, as instances of the plugins' models.

    Raises:
        Forbidden: a policy is for a plugin that this stack does not run, so its limits would not be enforced.
        PluginFault: a policy that was valid when it was written no longer is.
    """
    found: dict[str, dict[str, Any]] = {}
    for scope, row in scopes:
        for plugin, settings in (row["policies"] if row else {}).items():
            if not settings:
                continue
            model = models.get(plugin)
            if model is None:
                raise Forbidden(
                    f"the {scope} has settings for {plugin}, which this gateway does not run: add it to stack, or remove the settings"
                )
            try:
                found.setdefault(plugin, {})[scope] = model.model_validate(settings)
            except ValidationError:
                raise PluginFault(plugin) from None
    return found

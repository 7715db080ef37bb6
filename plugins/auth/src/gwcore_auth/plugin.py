"""The plugin: identifies callers, authorises their calls and models, and guards the admin API."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

from gwcore.browsers import website
from gwcore.call import Attempt, Call, Outcome, Principal
from gwcore.credentials import credentials_of
from gwcore.errors import BadConfig, BadRequest, Forbidden, Unauthenticated
from gwcore.plugin import Plugin, Setup
from gwcore.ports import AdminCall, AdminRoute, Authority, Caller, Directory, Ownership, Sample
from gwcore.service import Service
from gwcore.sql import migrate
from gwcore_auth import policy
from gwcore_auth.admin import routes_of
from gwcore_auth.admin.desk import Desk
from gwcore_auth.authority import Callers
from gwcore_auth.book import Book
from gwcore_auth.cache import GrantCache
from gwcore_auth.config import AuthConfig
from gwcore_auth.endusers import HEADERS, end_user_of
from gwcore_auth.feed import Feed
from gwcore_auth.grants import Grant, ModelRule, networks_of, within
from gwcore_auth.keys import Pepper, presented, proof_of
from gwcore_auth.resolve import ADMIN, OPEN, UNKNOWN, Resolver, declared_rows
from gwcore_auth.tables import MIGRATIONS
from gwcore_auth.tokens import Tokens, claim, looks_like

_LOOPBACK = networks_of(["127.0.0.0/8", "::1/128"])
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"})
_KEPT_NOWHERE = frozenset({"moderations", "image_variation"})
"""Operations that name no model and store nothing at the vendor."""


class Auth(Plugin):
    """Authenticates callers by virtual keys, tokens (JWT) or the admin key, decides what they may use, and guards the admin API.

    Any error denies access. A store that does not answer is a 503, never a 401.
    """

    name = "auth"
    Config = AuthConfig
    identifies = True
    offers = (Authority, Directory)

    def __init__(self, config: AuthConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        rows, secrets = declared_rows(config)
        source = config.pepper_source
        self.book = Book(setup.store(config.store), rows, secrets)
        self.pepper = Pepper(source.get_secret_value()) if source else None
        self.resolver = Resolver(config, self.book, self.pepper, setup.policies)
        self.resolver.check_declared()
        self.cache = GrantCache(config.cache)
        self.tokens = Tokens(config.jwt, setup) if config.jwt else None
        self.admin_proof = proof_of(config.admin_key.get_secret_value()) if config.admin_key else None
        push = setup.store(config.push) if config.push else None
        self.feed = Feed(self.book, self._changed, refresh=config.refresh, ttl=config.ttl, push=push)
        self.book.failing = lambda: self.feed.failing
        self.book.changed = self._wrote
        self.grant_key = setup.key("grant", tuple[Grant, int])  # with the cache epoch of its load
        self._loading: dict[bytes, asyncio.Task[Grant | None]] = {}
        self._pushes: set[asyncio.Task[None]] = set()
        self._open, self._tells_end_users = config.open, config.end_users
        own = config.end_user_header
        self._end_user_headers = HEADERS if own is None else (own.lower().encode(), *HEADERS)
        self._end_users = bool(config.blocked.end_users)
        self._tags = None if "*" in config.client_tags else ModelRule("tags", config.client_tags)
        self._proxies = networks_of(config.trusted_proxies)
        self._barred = networks_of(config.blocked.networks)
        self._apart: frozenset[str] = frozenset()
        self._callers = Callers(self.book, self.identify, self.tokens)
        self._desk = Desk(self.book, self.pepper, setup)
        self._admin = routes_of(self._desk)

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Migrate, check the pepper, follow changes. An open gateway without admin key and pepper needs no store."""
        keeper = self.setup.offered(Ownership)
        self._apart = keeper.operations if keeper is not None else frozenset()
        if self.pepper is None:
            self.feed.good_until = float("inf")
            self.book.unstored = True
            self._end_users = self._end_users or await self.book.any_end_user()
            yield
            return
        store = self.book.store
        await migrate(store, MIGRATIONS)
        if await self.book.keep_fingerprint(self.pepper.fingerprint) != self.pepper.fingerprint:
            raise BadConfig(
                "auth: the keys in this store were made with another pepper, so none of them would be accepted. "
                "Set auth.pepper to the admin_key (or pepper) they were made with"
            )
        await self.feed.start()
        try:
            self._end_users = self._end_users or await self.book.any_end_user()
            yield
        finally:
            await self.feed.stop()
            for task in (*self._loading.values(), *self._pushes):
                task.cancel()
            await asyncio.gather(*self._loading.values(), *self._pushes, return_exceptions=True)

    def _changed(self, subjects: Iterable[tuple[str, str]] | None) -> None:
        if subjects is None:
            self._end_users = True
            self.cache.clear()
            return
        for subject in subjects:
            self._end_users = self._end_users or subject[0] == "end_user"
            self.cache.drop(subject)

    def _wrote(self, subjects: Iterable[tuple[str, str]]) -> None:
        """Apply this worker's own write at once, and notify the other workers."""
        self._changed(subjects)
        task = asyncio.create_task(self.feed.tell())
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    # ── the call ring ────────────────────────────────────────────────────────────────────────────────────────────

    def call_layer(self, inner: Service[Call]) -> Service[Call]:
        """Identify the caller and authorise the call, or reject it."""
        cache = self.cache

        def auth(call: Call) -> Coroutine[Any, Any, Outcome]:
            grant = self._known(call)
            if grant is None:
                return looked_up(call)
            self._let_in(call, grant, cache.epoch)
            return inner(call)

        async def looked_up(call: Call) -> Outcome:
            epoch = cache.epoch
            self._let_in(call, await self._found(call), epoch)
            return await inner(call)

        return auth

    def _known(self, call: Call) -> Grant | None:
        """The cached grant of the call's only credential, for the end user if one is named; never awaits."""
        if len(call.credentials) != 1 or self._open or time.monotonic() >= self.feed.good_until:
            return None
        digest = sha256(call.credentials[0].encode()).digest()
        found = self.cache.grants.get(digest)
        if (
            found is not None
            and self._tells_end_users
            and (end_user := end_user_of(call, self._end_user_headers)) is not None
        ):
            return self.cache.for_end_user.get((digest, end_user))
        return found

    async def _found(self, call: Call) -> Grant:
        """The grant of the caller, from the store if it is not cached."""
        credentials = call.credentials
        digest = b""
        fresh = time.monotonic() < self.feed.good_until
        if len(credentials) == 1 and not self._open:
            digest = sha256(credentials[0].encode()).digest()
            found = self.cache.grants.get(digest) if fresh else None
            if found is None:
                found = await self._admit(credentials[0], digest)
        else:
            found = await self._unusual(call)
        if self._tells_end_users and (end_user := end_user_of(call, self._end_user_headers)) is not None:
            made = self.cache.for_end_user.get((digest, end_user)) if digest and fresh else None
            found = made or await self._for_end_user(found, digest, end_user)
        return found

    async def knock(self, call: Call) -> None:
        """See :meth:`gwcore.plugin.Plugin.knock`."""
        grant = self._known(call) or await self._found(call)
        self._check(call, grant)

    def _check(self, call: Call, grant: Grant) -> None:
        """Check everything but the body. Raises ``Unauthenticated`` and ``Forbidden``."""
        client = call.client
        if self._barred or self._proxies or grant.networks:
            client = self._client(call)
            if self._barred and within(client, self._barred):
                raise Forbidden("this address is blocked")
        grant.check(call, client)

    def _let_in(self, call: Call, grant: Grant, epoch: int) -> None:
        """Set the caller, then check the grant: so rejected calls, too, have a caller in logs and records."""
        call.principal = grant.principal
        self._check(call, grant)
        if self._tags is not None and call.tags and grant.principal is not ADMIN:
            for tag in call.tags - grant.principal.tags:
                if not self._tags.allows(tag):
                    raise Forbidden(
                        f"clients may not set the tag {tag[:200]!r}; auth.client_tags lists the permitted ones"
                    )
        if grant.principal.tags:
            call.tags |= grant.principal.tags
        model = call.model
        if model is None:
            _without_model(call, grant, self._apart)
        else:
            if grant.aliases and model in grant.aliases:
                call.model = model = grant.aliases[model]
            if grant.rules:
                grant.refuse(model)
        call[self.grant_key] = grant, epoch

    def _client(self, call: Call) -> str | None:
        return self._behind(call.client, call.headers)

    def _behind(self, client: str | None, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """The nearest address that is not one of ``trusted_proxies``."""
        if self._proxies and within(client, self._proxies):
            said = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
            for hop in reversed([part.strip() for part in said.split(",") if part.strip()]):
                client = hop
                if not within(hop, self._proxies):
                    break
        return client

    async def _unusual(self, call: Call) -> Grant:
        """The grant for an open gateway. Otherwise raises: the call has no credential, or several."""
        credentials = call.credentials
        if len(credentials) > 1:
            raise BadRequest("the request holds different credentials; send one")
        if not self._open:
            raise Unauthenticated("Authentication Error, No api key passed in.")
        if call.client is not None and not within(call.client, _LOOPBACK):
            raise Forbidden("without a credential, this gateway (auth.open) serves only its own machine")
        if not _FORWARDED.isdisjoint(name for name, _ in call.headers):
            raise Forbidden(
                "without a credential, this gateway (auth.open) serves only its own machine, and no requests through a proxy"
            )
        if website(call.headers):
            raise Forbidden(
                "without a credential, this gateway (auth.open) serves only its own machine, and no websites in a browser"
            )
        if credentials:
            try:
                return await self._admit(credentials[0], sha256(credentials[0].encode()).digest())
            except Unauthenticated:
                pass  # SDKs insist on sending something
        return Grant(OPEN)

    # ── the attempt ring ─────────────────────────────────────────────────────────────────────────────────────────

    def attempt_layer(self, inner: Service[Attempt]) -> Service[Attempt]:
        """Check whether this target may be tried, so that a router's fallback is authorised, too."""
        cache, key, models = self.cache, self.grant_key, self.setup.models

        def auth(attempt: Attempt) -> Coroutine[Any, Any, Outcome]:
            admitted = attempt.call.get(key)
            if admitted is None:
                raise Unauthenticated(UNKNOWN)
            grant, epoch = admitted
            if epoch != cache.epoch:
                return anew(attempt)
            if grant.until is not None:
                grant.alive(time.time())
            return permitted(attempt, grant)

        async def anew(attempt: Attempt) -> Outcome:
            return await permitted(attempt, await self._still(attempt.call))

        def permitted(attempt: Attempt, grant: Grant) -> Coroutine[Any, Any, Outcome]:
            if grant.rules:
                model = attempt.call.model
                grant.permit(attempt, models.resolve(model) if model is not None else (), models.names)
            return inner(attempt)

        return auth

    async def _still(self, call: Call) -> Grant:
        """Load the grant again: it may have been revoked while the call queued or tried other targets."""
        epoch = self.cache.epoch
        grant = await self._found(call)
        grant.check(call, self._client(call) if grant.networks else None)
        call[self.grant_key] = grant, epoch
        return grant

    def visible(self, call: Call, model: str) -> bool:
        """Whether the credential may use the model."""
        admitted = call.get(self.grant_key)
        return admitted is not None and all(rule.allows(model) for rule in admitted[0].rules)

    # ── the cold path ────────────────────────────────────────────────────────────────────────────────────────────

    async def _admit(self, text: str, digest: bytes) -> Grant:
        """The grant of a credential that is not cached. Raises ``Unauthenticated``, ``StoreUnavailable``."""
        if digest in self.cache.unknown and time.monotonic() < self.feed.good_until:
            raise Unauthenticated(UNKNOWN)
        task = self._loading.get(digest)
        if task is None:
            # one load for all waiting calls; it must survive the cancellation of any of them
            task = self._loading[digest] = asyncio.create_task(self._load(text, digest))
            task.add_done_callback(lambda done: self._loaded(digest, done))
        grant = await asyncio.shield(task)
        if grant is None:
            raise Unauthenticated(UNKNOWN)
        return grant

    def _loaded(self, digest: bytes, task: asyncio.Task[Grant | None]) -> None:
        self._loading.pop(digest, None)
        if not task.cancelled():
            task.exception()  # mark as retrieved, in case no call waits any longer

    async def _load(self, text: str, digest: bytes) -> Grant | None:
        epoch = self.cache.epoch
        grant = await self.identify(text)
        self.cache.put(digest, grant, epoch)
        return grant

    async def identify(self, text: str) -> Grant | None:
        """The grant of a credential; ``None`` if it is unknown. Raises ``Unauthenticated`` and ``StoreUnavailable``."""
        shown = presented(text)
        if self.admin_proof is not None and hmac.compare_digest(shown.proof, self.admin_proof):
            return Grant(ADMIN)
        if self.tokens is not None and looks_like(text):
            return await self._of_token(self.tokens, text)
        return await self.resolver.grant(shown)

    async def _of_token(self, tokens: Tokens, text: str) -> Grant:
        claims, names = await tokens.claims(text), tokens.config.claims
        user = next(iter(claim(claims, names.user)), None)
        teams, team = claim(claims, names.team), None
        for one in teams:
            if await self.book.get("team", one) is not None:
                team = one
                break
        if (teams and team is None) or user is None:
            raise Unauthenticated("Authentication Error, the team or user of this token is not known.")
        principal = Principal(f"jwt:{claims['sub']}", alias=user, team=team, user=user)
        made = Grant(principal, until=claims["exp"] + tokens.config.leeway)
        organisation = next(iter(claim(claims, names.organisation)), None)
        strangers = not tokens.config.require_known_user
        return await self.resolver.belonging(made, None, organisation, strangers=strangers)

    async def _for_end_user(self, grant: Grant, digest: bytes, end_user: str) -> Grant:
        epoch = self.cache.epoch
        made = await self.resolver.for_end_user(grant, end_user, known=self._end_users)
        if digest:
            self.cache.put_for(digest, end_user, made, epoch)
        return made

    # ── the admin API ────────────────────────────────────────────────────────────────────────────────────────────

    def admin_routes(self) -> Sequence[AdminRoute]:
        """Routes for keys, teams, users, organisations and customers."""
        return self._admin

    async def caller(self, headers: Sequence[tuple[bytes, bytes]], client: str | None, path: str) -> Caller:
        """Identify a caller of the admin API, uncached; see :class:`gwcore.ports.Authority`."""
        client = self._behind(client, headers)
        if self._barred and within(client, self._barred):
            raise Forbidden("this address is blocked")
        return await self._callers.caller(credentials_of(headers), client, path)

    async def permit(self, route: AdminRoute, call: AdminCall) -> None:
        """Apply the table of :mod:`gwcore_auth.policy`."""
        policy.permit(route.permission, call)

    def key_id(self, text: str) -> str:
        """See :class:`gwcore.ports.Directory`."""
        return self._desk.ids_of([text])[0]

    async def aliases(self, scope: str, ids: Iterable[str]) -> Mapping[str, str]:
        """See :class:`gwcore.ports.Directory`."""
        rows = await self.book.some(scope, list(ids), "id", "alias")
        return {row["id"]: row["alias"] for row in rows if row["alias"]}

    async def policies(self, scope: str, ids: Iterable[str], plugin: str) -> Mapping[str, Mapping[str, Any]]:
        """See :class:`gwcore.ports.Directory`."""
        if scope == "member":
            # both ids may contain slashes, so try every split
            teams = {id_[:at] for id_ in ids for at, letter in enumerate(id_) if letter == "/"}
            rows = await self.book.members_of("team_id", sorted(teams))
            found = {f"{row['team_id']}/{row['user_id']}": row["policies"] for row in rows}
        else:
            rows = await self.book.some(scope, list(ids), "id", "policies")
            found = {row["id"]: row["policies"] for row in rows}
        return {id_: said[plugin] for id_, said in found.items() if said.get(plugin)}

    def explain(self, call: Call) -> str | None:
        """Which keys may make this call, with declared ones as examples."""
        able = [
            id_
            for (kind, id_), row in self.book.declared.items()
            if kind == "key" and (not row["models"] or call.model in row["models"])
        ]
        return f"any known key that may use {call.model}" + (f", such as {', '.join(able[:3])}" if able else "")

    def metrics(self) -> Iterator[Sample]:
        """Number of cached credentials, and whether the store fails."""
        yield Sample("gwcore_auth_cached", len(self.cache.grants), help="Credentials cached in memory.")
        yield Sample(
            "gwcore_auth_store_failing",
            self.feed.failing,
            help="1 while the store of keys does not answer, else 0.",
            merge="max",
        )

    def health(self) -> dict[str, Any]:
        """Number of cached credentials, and whether the store fails."""
        failing = self.feed.failing
        return {"cached": len(self.cache.grants), "store": "failing" if failing else "ok", "degraded": failing}


def _without_model(call: Call, grant: Grant, apart: frozenset[str]) -> None:
    """Check a call that names no model. Raises ``Forbidden``.

    ``apart``: operations whose objects another plugin keeps apart by owner.
    """
    operation = call.operation
    if not (call.route.local or operation in _KEPT_NOWHERE or operation in apart or _may_share(grant, call)):
        raise Forbidden(
            "files, batches, stored responses and caches belong to the vendor account, which all keys share, so this key "
            f"may not use them: add {call.route.path} to its allowed_routes, or the plugin objects to stack"
        )
    if grant.rules and call.method == "POST" and (grant.routes is None or not grant.routes.allows(call.path)):
        # its body may name any model, like that of a batch
        raise Forbidden(
            "this key is limited to some models, and this operation may use any: add its path to the key's allowed_routes"
        )


def _may_share(grant: Grant, call: Call) -> bool:
    """Whether a credential may access what all keys of an upstream's account share: if its routes name the address."""
    if grant.principal is OPEN or grant.principal is ADMIN:
        return True
    return grant.routes is not None and grant.routes.allows(call.path, call.route.path, call.operation)

"""Settings of ``auth``."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from gwcore.units import AdminSecret, Duration, OptionalStoreRef, StoreRef, fault, strong
from gwcore_auth.grants import networks_of


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _networks(texts: list[str]) -> list[str]:
    try:
        networks_of(texts)
    except ValueError:
        raise fault(
            "contains something that is not a network", "write addresses like 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    return texts


Networks = Annotated[list[str], AfterValidator(_networks)]
Policies = Annotated[
    dict[str, dict[str, Any]],
    Field(description="Settings of other plugins by name, such as `{budget: {max_budget: 10, budget_duration: 30d}}`."),
]


class _Thing(_Strict):
    alias: str | None = Field(default=None, description="Readable name, shown in lists, logs and reports.")
    blocked: bool = Field(default=False, description="`true` rejects every call, with 401.")
    models: list[str] = Field(
        default=[],
        description="Models that calls may request, by the names that clients write or as `upstream/model`; `*` "
        "matches any text. An empty list permits every model.",
    )
    tags: list[str] = Field(
        default=[], description="Tags that every call gets, for rules, budgets and reports that match on them."
    )
    metadata: dict[str, Any] = Field(
        default={},
        description="Any data of your own; plugins receive it with the caller. Only that of keys and teams is used.",
    )
    policies: Policies = {}


def _key(secret: SecretStr) -> SecretStr:
    return strong(secret, 24)


KeySecret = Annotated[SecretStr, AfterValidator(_key)]
"""A virtual key chosen by a person: at least 24 characters, so that LiteLLM's own (128 random bits) are accepted."""


_EXAMPLES = frozenset(
    sha256(word.encode()).hexdigest()
    for word in (
        "", "test", "password", "secret", "admin", "key", "demo", "example", "changeme", "change-me", "hello", "foo", "abc",
        "123", "1234", "123456", "sk-1234", "sk-test", "sk-xxx", "token", "master-key", "api-key", "your-api-key",
    )
)  # fmt: skip


def _digest(digest: str) -> str:
    if digest in _EXAMPLES:
        raise fault("is the digest of a well-known example key", "make a key with: openssl rand -hex 32")
    return digest


KeyDigest = Annotated[str, AfterValidator(_digest), Field(pattern="^[0-9a-f]{64}$")]
"""SHA-256 in hex of a key known only to its clients."""


class DeclaredKey(_Thing):
    """A key declared in the stack file: exactly one of ``secret`` and ``sha256``, and what it may do."""

    secret: KeySecret | None = Field(
        default=None, description="The key itself: at least 24 characters; write it as `${VAR}`."
    )
    sha256: KeyDigest | None = Field(
        default=None, description="SHA-256 of the key in hexadecimal, instead of `secret`: the file then holds no key."
    )
    team: str | None = Field(
        default=None, description="Id of the key's team. Its calls spend the team's money, not the user's."
    )
    user: str | None = Field(default=None, description="Id of the key's user.")
    organisation: str | None = Field(default=None, description="Id of the key's organisation; its team's by default.")
    aliases: dict[str, str] = Field(
        default={},
        description="Names that clients may write for models, such as `{gpt-4: fast}`; the target must be permitted, "
        "too.",
    )
    routes: list[str] = Field(
        default=[],
        description="Paths (`*` matches any text), operations such as `embeddings`, or groups such as `openai_routes` "
        "that the key may call. An empty list permits all model calls, and nothing of the admin API.",
    )
    networks: Networks = Field(
        default=[],
        description="Client addresses from which the key is accepted, such as `10.0.0.0/8`; an empty list permits "
        "all. Behind a proxy, set `trusted_proxies`.",
    )
    expires: datetime | None = Field(
        default=None,
        description="Date or time at which the key ends, in ISO 8601; UTC if it names no time zone. Without it, never.",
    )

    @model_validator(mode="after")
    def _one_secret(self) -> DeclaredKey:
        if (self.secret is None) == (self.sha256 is None):
            raise fault("must have exactly one of secret and sha256", 'write secret: "${VAR}"')
        return self


class DeclaredTeam(_Thing):
    """A team declared in the stack file."""

    organisation: str | None = Field(default=None, description="Id of the team's organisation.")
    aliases: dict[str, str] = Field(
        default={},
        description="Names that clients may write for models, such as `{gpt-4: fast}`; those of a key take precedence.",
    )


class DeclaredUser(_Thing):
    """A user declared in the stack file."""

    email: str | None = Field(default=None, description="Mail address.")
    role: Literal["admin", "viewer", "user", "reader"] = Field(
        default="user",
        description="Role in the admin API: `admin` may do everything, `viewer` read everything, `user` manage its "
        "own keys, `reader` read its own.",
    )


class DeclaredOrganisation(_Thing):
    """An organisation declared in the stack file."""


class DeclaredEndUser(_Thing):
    """An end user (customer) declared in the stack file."""


class Claims(_Strict):
    """Names of the claims to read from a token; a dot selects a nested claim."""

    user: str = Field(default="sub", description="Claim with the id of the user; required in every token.")
    team: str | None = Field(
        default=None,
        description="Claim with the id of the team. Of a list, the first team that exists in this gateway counts; a "
        "token that names only unknown ones is rejected. Without this option, tokens have no team.",
    )
    organisation: str | None = Field(
        default=None, description="Claim with the id of the organisation, which must exist in this gateway."
    )
    role: str | None = Field(default=None, description="Claim with a role or a list of roles, for `admin_roles`.")


class JwtConfig(_Strict):
    """Tokens of an identity provider as credentials."""

    issuer: str = Field(
        min_length=1,
        description="Required value of the claim `iss`. Unless `jwks_url` or `public_key` is set, the public keys are "
        "found by OIDC discovery below this URL.",
    )
    audience: str | list[str] = Field(
        min_length=1,
        description="Required value of the claim `aud`, or a list of permitted values. Tokens for other applications "
        "are rejected.",
    )
    jwks_url: str | None = Field(
        default=None,
        pattern="^https?://",
        description="URL of the provider's public keys (JWKS), instead of OIDC discovery.",
    )
    public_key: str | None = Field(default=None, description="One public key in PEM; nothing is then fetched.")
    algorithms: list[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    ] = Field(
        default=["RS256", "ES256", "EdDSA"],
        min_length=1,
        description="Permitted signature algorithms; asymmetric ones only.",
    )
    leeway: Duration = Field(
        default=10.0, description="Permitted difference of the clocks, for the claims `exp` and `nbf`."
    )
    claims: Claims = Field(
        default=Claims(), description="Which claims hold the caller's user, team, organisation and role."
    )
    admin_roles: list[str] = Field(
        default=[], description="Roles, in the claim `claims.role`, that make the bearer an admin of the admin API."
    )
    require_known_user: bool = Field(
        default=False, description="`true` rejects tokens of users that do not exist in this gateway."
    )


class BlockList(_Strict):
    """Ids and networks that are always rejected, whatever the store contains."""

    keys: list[str] = Field(default=[], description="Ids of keys.")
    teams: list[str] = Field(default=[], description="Ids of teams.")
    users: list[str] = Field(default=[], description="Ids of users.")
    organisations: list[str] = Field(default=[], description="Ids of organisations.")
    end_users: list[str] = Field(default=[], description="Ids of end users.")
    networks: Networks = Field(
        default=[], description="Client addresses, such as `10.0.0.0/8`; also rejected by the admin API."
    )


class AuthConfig(_Strict):
    """Settings of ``auth``."""

    admin_key: AdminSecret | None = Field(
        default=None,
        description="Master key: may use the admin API and make calls without limits. At least 32 random characters "
        "(`openssl rand -hex 32`); write it as `${GWCORE_ADMIN_KEY}`. Required unless `open` is set.",
    )
    open: bool = Field(
        default=False,
        description="`true` accepts calls without a credential from this machine (loopback). For development: `gwcore "
        "run` refuses to listen on other addresses with it.",
    )
    store: StoreRef = Field(
        default="book",
        description="Store in which keys, teams and users are kept: the name of a `sqlite:` or `postgresql:` store.",
    )
    push: OptionalStoreRef = Field(
        default=None,
        description="Name of a `redis:` store through which workers notify each other of changes at once. Not needed "
        "with PostgreSQL, which notifies by itself.",
    )
    refresh: Duration = Field(
        default=0.5,
        gt=0,
        description="Interval of polling the store for changes that were not pushed; a revoked key may work for that "
        "long on other workers.",
    )
    ttl: Duration = Field(
        default=30.0,
        gt=0,
        description="How long keys in memory stay valid while the store does not answer; then calls get 503.",
    )
    cache: int = Field(
        default=100_000, ge=1, description="Maximum number of keys kept in memory, per worker, about 2 kB each."
    )
    pepper: AdminSecret | None = Field(
        default=None,
        description="Secret with which the digests of stored keys are computed; the admin key by default. If you "
        "change the admin key, set this to the old one: otherwise the gateway does not start.",
    )
    end_users: bool = Field(
        default=True,
        description="Whether clients may name an end user, with budgets and limits of its own: in the body's `user`, "
        "Anthropic's `metadata.user_id`, or the headers `x-gwcore-end-user`, `x-litellm-end-user-id`, "
        "`x-litellm-customer-id` and `x-openwebui-user-id`.",
    )
    end_user_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Additional header that names the end user; it takes precedence over the others. LiteLLM's "
        "`user_header_name`.",
    )
    client_tags: list[str] = Field(
        default=["*"],
        description="Tags that clients may add to those of their key; `*` matches any text, `[]` permits none. "
        "Budgets, limits and reports that count by tag charge whatever tag the client names: list the "
        "permitted ones.",
    )
    trusted_proxies: Networks = Field(
        default=[],
        description="Addresses of proxies whose `x-forwarded-for` is believed. List only your own: whoever is listed "
        "can claim any client address.",
    )
    keys: dict[str, DeclaredKey] = Field(
        default={}, description="Keys by id. The admin API shows them, but cannot change them."
    )
    teams: dict[str, DeclaredTeam] = Field(default={}, description="Teams by id; the admin API cannot change them.")
    users: dict[str, DeclaredUser] = Field(default={}, description="Users by id; the admin API cannot change them.")
    organisations: dict[str, DeclaredOrganisation] = Field(
        default={}, description="Organisations by id; the admin API cannot change them."
    )
    customers: dict[str, DeclaredEndUser] = Field(
        default={}, description="End users by id; the admin API cannot change them."
    )
    jwt: JwtConfig | None = Field(
        default=None, description="Accept tokens (JWT) of an identity provider as credentials; without it, none are."
    )
    blocked: BlockList = Field(
        default=BlockList(), description="Ids and addresses that are always rejected, without asking the store."
    )

    @model_validator(mode="after")
    def _closed(self) -> AuthConfig:
        if self.admin_key is None and not self.open:
            mend = 'write admin_key: "${GWCORE_ADMIN_KEY}" and make one with: openssl rand -hex 32; or open: true on loopback'
            raise fault("has no admin_key", mend)
        return self

    @property
    def pepper_source(self) -> SecretStr | None:
        """The secret from which the pepper is derived."""
        return self.pepper or self.admin_key

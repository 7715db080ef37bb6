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
            "holds something that is no network", "write addresses like 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    return texts


Networks = Annotated[list[str], AfterValidator(_networks)]
Policies = Annotated[
    dict[str, dict[str, Any]],
    Field(description="settings per plugin, e.g. {budget: {max_budget: 10, budget_duration: 30d}}"),
]


class _Thing(_Strict):
    alias: str | None = Field(default=None, description="name for humans")
    blocked: bool = Field(default=False, description="refuse every call")
    models: list[str] = Field(default=[], description="models it may use; * stands for any text; empty for all")
    tags: list[str] = Field(default=[], description="tags of every call")
    metadata: dict[str, Any] = Field(default={}, description="for reports and routing")
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
        raise fault("is that of an example, not of a secret", "make a key with: openssl rand -hex 32")
    return digest


KeyDigest = Annotated[str, AfterValidator(_digest), Field(pattern="^[0-9a-f]{64}$")]
"""SHA-256 in hex of a key known only to its clients."""


class DeclaredKey(_Thing):
    """A key of the stack file."""

    secret: KeySecret | None = Field(default=None, description="the key itself, best written as ${VAR}")
    sha256: KeyDigest | None = Field(default=None, description="its SHA-256 in hex, instead of secret")
    team: str | None = Field(default=None, description="id of its team")
    user: str | None = Field(default=None, description="id of its user")
    organisation: str | None = Field(default=None, description="id of its organisation; its team's by default")
    aliases: dict[str, str] = Field(default={}, description="names its clients may write for models")
    routes: list[str] = Field(default=[], description="paths, operations or groups it may call; empty for all")
    networks: Networks = Field(default=[], description="addresses it may be used from; empty for all")
    expires: datetime | None = Field(default=None, description="when it ends; with a time zone, else UTC")

    @model_validator(mode="after")
    def _one_secret(self) -> DeclaredKey:
        if (self.secret is None) == (self.sha256 is None):
            raise fault("has not exactly one of secret and sha256", 'write secret: "${VAR}"')
        return self


class DeclaredTeam(_Thing):
    """A team of the stack file."""

    organisation: str | None = Field(default=None, description="id of its organisation")
    aliases: dict[str, str] = Field(default={}, description="names its clients may write for models")


class DeclaredUser(_Thing):
    """A user of the stack file."""

    email: str | None = Field(default=None, description="address")
    role: Literal["admin", "viewer", "user", "reader"] = Field(
        default="user", description="what the user's keys may do in the admin API"
    )


class DeclaredOrganisation(_Thing):
    """An organisation of the stack file."""


class DeclaredEndUser(_Thing):
    """An end user (customer) of the stack file."""


class Claims(_Strict):
    """Names of the claims to read from a token; a dot selects a nested claim."""

    user: str = Field(default="sub", description="id of the user")
    team: str | None = Field(
        default=None, description="id of the team, which must be known here; or a list, whose first known counts"
    )
    organisation: str | None = Field(default=None, description="id of the organisation, which must be known here")
    role: str | None = Field(default=None, description="a role, or a list of them, that admin_roles may name")


class JwtConfig(_Strict):
    """Tokens of an identity provider as credentials."""

    issuer: str = Field(min_length=1, description="what iss must be; also where OIDC discovery asks for the keys")
    audience: str | list[str] = Field(min_length=1, description="what aud must hold")
    jwks_url: str | None = Field(
        default=None, pattern="^https?://", description="where the public keys are, without discovery"
    )
    public_key: str | None = Field(default=None, description="one public key in PEM, instead of asking for them")
    algorithms: list[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    ] = Field(
        default=["RS256", "ES256", "EdDSA"], min_length=1, description="accepted signatures; asymmetric ones only"
    )
    leeway: Duration = Field(default=10.0, description="for clocks that disagree")
    claims: Claims = Field(default=Claims(), description="which claims say what")
    admin_roles: list[str] = Field(default=[], description="roles whose bearers are admins of the admin API")
    require_known_user: bool = Field(default=False, description="refuse tokens of users that are not known here")


class BlockList(_Strict):
    """Ids and networks that are always rejected, whatever the store contains."""

    keys: list[str] = Field(default=[], description="ids of keys")
    teams: list[str] = Field(default=[], description="ids of teams")
    users: list[str] = Field(default=[], description="ids of users")
    organisations: list[str] = Field(default=[], description="ids of organisations")
    end_users: list[str] = Field(default=[], description="ids of end users")
    networks: Networks = Field(default=[], description="addresses of clients")


class AuthConfig(_Strict):
    """Settings of ``auth``."""

    admin_key: AdminSecret | None = Field(default=None, description="opens everything; 32 random characters at least")
    open: bool = Field(default=False, description="serve this machine without credentials; for development")
    store: StoreRef = Field(default="book", description="where keys are kept; sqlite or postgresql")
    push: OptionalStoreRef = Field(
        default=None, description="a redis store that tells the other workers of changes at once"
    )
    refresh: Duration = Field(default=0.5, gt=0, description="between two looks for changes that nobody pushed")
    ttl: Duration = Field(default=30.0, gt=0, description="how long cached keys outlive a store that does not answer")
    cache: int = Field(default=100_000, ge=1, description="keys kept in memory")
    pepper: AdminSecret | None = Field(
        default=None,
        description="what digests of keys are made with; the admin key by default, the old one after it changed",
    )
    end_users: bool = Field(default=True, description="take the end user from the body's user and from headers")
    end_user_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="a header that names the end user, before the usual ones; LiteLLM's user_header_name",
    )
    client_tags: list[str] = Field(
        default=["*"],
        description="tags that clients may give their calls beside their key's own; * is any text, [] none",
    )
    trusted_proxies: Networks = Field(default=[], description="addresses whose x-forwarded-for is believed")
    keys: dict[str, DeclaredKey] = Field(default={}, description="keys by id, read-only for the admin API")
    teams: dict[str, DeclaredTeam] = Field(default={}, description="teams by id, likewise")
    users: dict[str, DeclaredUser] = Field(default={}, description="users by id, likewise")
    organisations: dict[str, DeclaredOrganisation] = Field(default={}, description="organisations by id, likewise")
    customers: dict[str, DeclaredEndUser] = Field(default={}, description="end users by id, likewise")
    jwt: JwtConfig | None = Field(default=None, description="tokens of an identity provider as credentials")
    blocked: BlockList = Field(default=BlockList(), description="who is refused whatever else is said")

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

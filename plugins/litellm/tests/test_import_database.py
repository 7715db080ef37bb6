"""Keys, teams, users and budgets of LiteLLM's database, in a gateway that runs: clients keep their keys."""

import asyncio
import hashlib
import json
import secrets
from contextlib import asynccontextmanager

import asyncpg
import pytest
from typer.testing import CliRunner

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_litellm.cli import importing
from tests.stacks.raw import exchange

ADMIN = secrets.token_hex(32)
KEYS = {name: f"sk-{secrets.token_urlsafe(16)}" for name in ("ci", "ops", "old", "page", "guarded")}
STACK = """gwcore: 1
stores: {{book: "memory://book"}}
upstreams: {{up: {{provider: openai-compatible, base_url: "{url}/v1", prices: {{"*": {{input: $1/M, output: $1/M}}}}}}}}
models: {{small: up/small, large: up/large}}
stack:
  - auth: {{admin_key: "${{GWCORE_ADMIN_KEY}}"}}
  - ratelimit
  - budget: {{patience: 10s}}
"""
ANSWER = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}  # fmt: skip
LIMITS = """max_budget float8, soft_budget float8, budget_duration text, rpm_limit int8, tpm_limit int8, tpd_limit int8,
  max_parallel_requests int4, model_max_budget jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', models text[] DEFAULT '{}',
  spend float8 DEFAULT 0, blocked bool DEFAULT false"""
SCHEMA = f"""
CREATE TABLE "LiteLLM_BudgetTable" (budget_id text PRIMARY KEY, allowed_models text[] DEFAULT '{{}}', {LIMITS});
CREATE TABLE "LiteLLM_OrganizationTable" (organization_id text PRIMARY KEY, organization_alias text, budget_id text, metadata jsonb, models text[]);
CREATE TABLE "LiteLLM_UserTable" (user_id text PRIMARY KEY, user_alias text, user_email text, user_role text, password text, {LIMITS});
CREATE TABLE "LiteLLM_TeamTable" (team_id text PRIMARY KEY, team_alias text, organization_id text, members_with_roles jsonb, model_id int, {LIMITS});
CREATE TABLE "LiteLLM_ModelTable" (id int PRIMARY KEY, aliases jsonb);
CREATE TABLE "LiteLLM_TeamMembership" (user_id text, team_id text, budget_id text);
CREATE TABLE "LiteLLM_EndUserTable" (user_id text PRIMARY KEY, alias text, budget_id text, blocked bool);
CREATE TABLE "LiteLLM_VerificationToken" (token text PRIMARY KEY, key_name text, key_alias text, user_id text, team_id text, organization_id text,
  aliases jsonb DEFAULT '{{}}', permissions jsonb DEFAULT '{{}}', expires timestamp, budget_id text, allowed_routes text[] DEFAULT '{{}}', {LIMITS});
"""
ROWS = """
INSERT INTO "LiteLLM_BudgetTable" (budget_id, max_budget, budget_duration, rpm_limit) VALUES ('b1', 100, '30d', NULL), ('b2', 2, '1d', 7);
INSERT INTO "LiteLLM_OrganizationTable" VALUES ('org', 'Org', 'b1', '{"cost": "x"}', '{}');
INSERT INTO "LiteLLM_UserTable" (user_id, user_email, user_role, password, max_budget) VALUES ('ann', 'ann@x.y', 'internal_user', 'canary', 50);
INSERT INTO "LiteLLM_ModelTable" VALUES (1, '{"fast": "small"}');
INSERT INTO "LiteLLM_TeamTable" (team_id, team_alias, organization_id, members_with_roles, model_id, max_budget, budget_duration)
  VALUES ('team', 'Team', 'org', '[{"user_id": "ann", "role": "admin"}]', 1, 20, '7d'), ('litellm-dashboard', 'x', NULL, '[]', NULL, NULL, NULL);
INSERT INTO "LiteLLM_TeamMembership" VALUES ('ann', 'team', 'b2');
INSERT INTO "LiteLLM_EndUserTable" VALUES ('customer', 'C', 'b2', true);
"""
KEY_ROWS = """
INSERT INTO "LiteLLM_VerificationToken" (token, key_alias, team_id, user_id, models, rpm_limit, max_budget, budget_duration, metadata, aliases, expires, permissions)
  VALUES ($1, 'ci', 'team', 'ann', '{small}', 60, 10, '30d', '{"tags": ["batch"], "app": "x"}', '{"gpt-4": "small"}', now() + interval '2 days', '{}'),
         ($2, 'ops', NULL, NULL, '{}', NULL, 0, NULL, '{}', '{}', NULL, '{}'),
         ($3, 'old', NULL, NULL, '{}', NULL, NULL, NULL, '{}', '{}', now() - interval '1 day', '{}'),
         ($4, NULL, 'litellm-dashboard', NULL, '{}', NULL, NULL, NULL, '{}', '{}', NULL, '{}'),
         ($5, 'guarded', NULL, NULL, '{}', NULL, NULL, NULL, '{"guardrails": ["pii"]}', '{}', NULL, '{}')
"""


@pytest.fixture
async def theirs(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(SCHEMA)
    await connection.execute(ROWS)
    await connection.execute(KEY_ROWS, *(hashlib.sha256(key.encode()).hexdigest() for key in KEYS.values()))
    await connection.close()
    return postgres_url


@asynccontextmanager
async def gateway():
    async with FakeUpstream() as up:
        up.default = Answer(body=json.dumps(ANSWER).encode())
        made = Gateway(STACK.format(url=up.url), env={"GWCORE_ADMIN_KEY": ADMIN}, serve_admin=True)
        async with running(made) as url:
            yield url


async def run(url, database, **env):
    variables = {"GWCORE_ADMIN_KEY": ADMIN, "LITELLM_DATABASE_URL": database, **env}
    return await asyncio.to_thread(CliRunner().invoke, importing, ["litellm-db", "--url", url], env=variables)


async def chat(url, key, model="small"):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}).encode()
    return (await exchange(url, "POST", "/v1/chat/completions", body, [("authorization", f"Bearer {key}")])).status


async def look(url, path):
    return json.loads((await exchange(url, "GET", path, b"", [("authorization", f"Bearer {ADMIN}")])).body)


async def test_clients_keep_their_keys(theirs):
    async with gateway() as url:
        done = await run(url, f"{theirs}{'&' if '?' in theirs else '?'}connection_limit=10")
        assert done.exit_code == 1  # one key is guarded
        assert "not taken over: key guarded: guardrails: not supported by this gateway; leave it out" in done.stderr
        assert "key: 2 made, 0 there already" in done.stdout
        assert [await chat(url, key) for key in KEYS.values()] == [
            200,
            429,
            401,
            401,
            401,
        ]  # the second may spend nothing
        assert await chat(url, KEYS["ci"], "gpt-4") == 200  # an alias of the key
        assert await chat(url, KEYS["ci"], "large") == 403
        assert "canary" not in done.output
        again = await run(url, theirs)
        assert "key: 0 made, 2 there already" in again.stdout
        assert again.stderr.count("not taken over") == 1


async def test_what_they_have_is_what_they_had(theirs):
    async with gateway() as url:
        await run(url, theirs)
        digest = hashlib.sha256(KEYS["ci"].encode()).hexdigest()
        key = (await look(url, f"/key/info?key={digest}"))["info"]
        assert (key["key_alias"], key["team_id"], key["user_id"], key["models"]) == ("ci", "team", "ann", ["small"])
        assert (key["max_budget"], key["budget_duration"], key["rpm_limit"]) == (10, "30d", 60)
        assert (key["metadata"], key["tags"]) == ({"app": "x"}, ["batch"])
        team = (await look(url, "/team/info?team_id=team"))["team_info"]
        assert (team["team_alias"], team["organization_id"], team["max_budget"]) == ("Team", "org", 20)
        assert [(one["user_id"], one["role"]) for one in team["members_with_roles"]] == [("ann", "admin")]
        (member,) = (await look(url, "/team/info?team_id=team"))["team_memberships"]
        assert member["litellm_budget_table"]["max_budget"] == 2
        assert (await look(url, "/user/info?user_id=ann"))["user_info"]["max_budget"] == 50
        customer = await look(url, "/customer/info?end_user_id=customer")
        limits = customer["litellm_budget_table"]
        assert (customer["blocked"], limits["budget_id"], limits["rpm_limit"]) == (True, "b2", 7)
        assert (await look(url, "/budget/list"))[1]["max_budget"] == 2


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("", "LITELLM_DATABASE_URL is not set"),
        ("mysql://u:canary@h/d", "not one of PostgreSQL's"),
        ("postgresql://u:canary@127.0.0.1:1/d", "does not answer: "),
        (None, "not LiteLLM's: it has no table"),
    ],
)
async def test_what_is_no_database_of_litellms_is_said(postgres_url, database, says):
    done = await run("http://127.0.0.1:1", postgres_url if database is None else database)
    assert done.exit_code == 1
    assert says in done.stderr
    assert "canary" not in done.output


async def execute(database, *statements):
    connection = await asyncpg.connect(database)
    for statement in statements:
        await connection.execute(*statement)
    await connection.close()


async def test_a_budget_of_nothing_stays_one(theirs):
    key = f"sk-{secrets.token_urlsafe(16)}"
    await execute(
        theirs,
        ("""INSERT INTO "LiteLLM_BudgetTable" (budget_id, max_budget, rpm_limit) VALUES ('none', 0, 0)""",),
        ("""UPDATE "LiteLLM_TeamMembership" SET budget_id = 'none'""",),
        (
            """INSERT INTO "LiteLLM_VerificationToken" (token, key_alias, budget_id) VALUES ($1, 'none', 'none')""",
            hashlib.sha256(key.encode()).hexdigest(),
        ),
    )
    async with gateway() as url:
        await run(url, theirs)
        budgets = {budget["budget_id"]: budget["max_budget"] for budget in await look(url, "/budget/list")}
        assert budgets == {"b1": 100, "b2": 2, "none": 0}
        (member,) = (await look(url, "/team/info?team_id=team"))["team_memberships"]
        assert (member["litellm_budget_table"]["max_budget"], member["litellm_budget_table"]["rpm_limit"]) == (0, 0)
        assert await chat(url, key) == 429


async def test_a_table_that_may_not_be_read_is_not_empty(theirs):
    """Keys whose budgets cannot be seen are not made without them."""
    role = f"reader_{secrets.token_hex(6)}"
    await execute(
        theirs,
        (f"CREATE ROLE {role}",),
        (f'GRANT SELECT ON "LiteLLM_VerificationToken" TO {role}',),
    )
    try:
        async with gateway() as url:
            done = await run(url, f"{theirs}{'&' if '?' in theirs else '?'}role={role}")
            assert done.exit_code == 1
            assert "permission denied for table LiteLLM_BudgetTable" in done.stderr
            assert (await look(url, "/key/list"))["total_count"] == 0
    finally:
        await execute(theirs, (f"DROP OWNED BY {role}",), (f"DROP ROLE {role}",))


async def test_a_credential_that_may_not_is_told_of_once(theirs):
    async with gateway() as url:
        done = await run(url, theirs, GWCORE_ADMIN_KEY=f"sk-{secrets.token_urlsafe(16)}")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "GWCORE_ADMIN_KEY" in done.stderr


async def test_names_are_told_on_one_line(theirs):
    await execute(
        theirs, ("UPDATE \"LiteLLM_VerificationToken\" SET key_alias = E'x\\n\\x1b[2Jy' WHERE key_alias = 'guarded'",)
    )
    async with gateway() as url:
        done = await run(url, theirs)
    assert "not taken over: key x??[2Jy: guardrails" in done.stderr


async def test_policies_of_guardrails_are_no_policies_of_ours(theirs):
    await execute(
        theirs,
        ('ALTER TABLE "LiteLLM_VerificationToken" ADD policies text[]',),
        ("UPDATE \"LiteLLM_VerificationToken\" SET policies = '{strict}' WHERE key_alias = 'ops'",),
    )
    async with gateway() as url:
        done = await run(url, theirs)
        assert "not taken over: key ops: policies" in done.stderr
        assert await chat(url, KEYS["ops"]) == 401

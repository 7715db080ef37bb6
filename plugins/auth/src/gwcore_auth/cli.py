"""``gwcore keys · teams · users``: the admin API of a running gateway from the command line, see ``gwcore.remote``."""

from __future__ import annotations

from typing import Annotated

import typer

from gwcore.remote import HERE, Url, ask, say, table


def _verbs(name: str, text: str) -> typer.Typer:
    return typer.Typer(name=name, help=text, no_args_is_help=True, pretty_exceptions_enable=False)


keys = _verbs("keys", "Create, list, block, rotate and delete virtual keys of a running gateway.")
teams = _verbs("teams", "Create, list, block and delete teams of a running gateway, and their members.")
users = _verbs("users", "Create, list and delete users of a running gateway.")


def _list(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

Models = Annotated[
    str | None, typer.Option(help="Permitted models, separated by commas; * matches any text. Without it, all models.")
]
Budget = Annotated[float | None, typer.Option(help="Budget in dollars: per --per, or in total. Without it, no limit.")]
Per = Annotated[str | None, typer.Option(help="Period of --budget: 24h, 30d, 1mo …")]
KeyArgument = Annotated[str, typer.Argument(help="Id of the key: the column token of `gwcore keys list`.")]


@keys.command("create")
def create_key(
    alias: Annotated[str | None, typer.Option(help="Readable name; unique.")] = None,
    team: Annotated[str | None, typer.Option(help="Id of the key's team, whose money it spends.")] = None,
    user: Annotated[str | None, typer.Option(help="Id of the key's user.")] = None,
    models: Models = None,
    duration: Annotated[
        str | None, typer.Option(help="Lifetime, such as 30d; without it, the key never expires.")
    ] = None,
    budget: Budget = None,
    per: Per = None,
    url: Url = HERE,
) -> None:
    """Create a key and print it. It cannot be shown again: the store keeps only a digest."""
    body = {
        "key_alias": alias, "team_id": team, "user_id": user, "models": _list(models), "duration": duration,
        "max_budget": budget, "budget_duration": per,
    }  # fmt: skip
    say(ask(url, "POST", "/key/generate", body))


@keys.command("list")
def list_keys(
    team: Annotated[str | None, typer.Option(help="Only keys of the team with this id.")] = None,
    user: Annotated[str | None, typer.Option(help="Only keys of the user with this id.")] = None,
    page: Annotated[int, typer.Option(help="Number of the page.", min=1)] = 1,
    url: Url = HERE,
) -> None:
    """List keys, the newest first, 100 per page."""
    found = ask(url, "GET", "/key/list", page=page, size=100, team_id=team, user_id=user, return_full_object="true")
    table(
        found["keys"], "token", "key_name", "key_alias", "team_id", "user_id", "models", "expires", "blocked", "spend"
    )
    typer.echo(f"page {found['current_page']} of {max(1, found['total_pages'])}, {found['total_count']} keys")


@keys.command("show")
def show_key(key: KeyArgument, url: Url = HERE) -> None:
    """Show one key: its limits, budget and spend."""
    say(ask(url, "GET", "/key/info", key=key))


@keys.command("block")
def block_key(key: KeyArgument, url: Url = HERE) -> None:
    """Block a key: every call with it is rejected, on all workers within a second."""
    ask(url, "POST", "/key/block", {"key": key})


@keys.command("unblock")
def unblock_key(key: KeyArgument, url: Url = HERE) -> None:
    """Accept a blocked key again."""
    ask(url, "POST", "/key/unblock", {"key": key})


@keys.command("rotate")
def rotate_key(
    key: KeyArgument,
    grace: Annotated[str, typer.Option(help="How long the old secret still works, such as 1h.")] = "0s",
    url: Url = HERE,
) -> None:
    """Replace the secret of a key and print the new one. Id, limits and spend stay."""
    say(ask(url, "POST", "/key/regenerate", {"key": key, "grace_period": grace}))


@keys.command("delete")
def delete_key(key: KeyArgument, url: Url = HERE) -> None:
    """Delete a key. Its spend stays in the ledger."""
    ask(url, "POST", "/key/delete", {"keys": [key]})


# ── teams ────────────────────────────────────────────────────────────────────────────────────────────────────────────

TeamArgument = Annotated[str, typer.Argument(help="Id of the team.")]


@teams.command("create")
def create_team(
    id_: Annotated[str | None, typer.Option("--id", help="Id of the team; generated if absent.")] = None,
    alias: Annotated[str | None, typer.Option(help="Readable name.")] = None,
    organisation: Annotated[str | None, typer.Option(help="Id of the team's organisation.")] = None,
    models: Models = None,
    budget: Budget = None,
    per: Per = None,
    url: Url = HERE,
) -> None:
    """Create a team."""
    body = {
        "team_id": id_, "team_alias": alias, "organization_id": organisation, "models": _list(models),
        "max_budget": budget, "budget_duration": per,
    }  # fmt: skip
    say(ask(url, "POST", "/team/new", body))


@teams.command("list")
def list_teams(url: Url = HERE) -> None:
    """List teams."""
    table(
        ask(url, "GET", "/team/list"),
        "team_id",
        "team_alias",
        "organization_id",
        "models",
        "members",
        "blocked",
        "spend",
    )


@teams.command("show")
def show_team(team: TeamArgument, url: Url = HERE) -> None:
    """Show one team, with its keys and members."""
    say(ask(url, "GET", "/team/info", team_id=team))


@teams.command("add")
def add_member(
    team: TeamArgument,
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    lead: Annotated[
        bool, typer.Option("--lead", help="The member leads the team: may manage its members and keys.")
    ] = False,
    url: Url = HERE,
) -> None:
    """Add a user to a team, or change whether a member leads it."""
    role = "admin" if lead else "user"
    members = ask(url, "GET", "/team/info", team_id=team)["team_memberships"]
    if any(member["user_id"] == user for member in members):
        ask(url, "POST", "/team/member_update", {"team_id": team, "user_id": user, "role": role})
    else:
        ask(url, "POST", "/team/member_add", {"team_id": team, "member": {"user_id": user, "role": role}})


@teams.command("remove")
def remove_member(
    team: TeamArgument, user: Annotated[str, typer.Argument(help="Id of the user.")], url: Url = HERE
) -> None:
    """Remove a member from a team, and delete its keys in the team."""
    ask(url, "POST", "/team/member_delete", {"team_id": team, "user_id": user})


@teams.command("block")
def block_team(team: TeamArgument, url: Url = HERE) -> None:
    """Block a team: every call with one of its keys is rejected."""
    ask(url, "POST", "/team/block", {"team_id": team})


@teams.command("unblock")
def unblock_team(team: TeamArgument, url: Url = HERE) -> None:
    """Accept the keys of a blocked team again."""
    ask(url, "POST", "/team/unblock", {"team_id": team})


@teams.command("delete")
def delete_team(team: TeamArgument, url: Url = HERE) -> None:
    """Delete a team and its keys."""
    ask(url, "POST", "/team/delete", {"team_ids": [team]})


# ── users ────────────────────────────────────────────────────────────────────────────────────────────────────────────

UserArgument = Annotated[str, typer.Argument(help="Id of the user.")]


@users.command("create")
def create_user(
    id_: Annotated[str | None, typer.Option("--id", help="Id of the user; generated if absent.")] = None,
    email: Annotated[str | None, typer.Option(help="Mail address.")] = None,
    role: Annotated[
        str,
        typer.Option(
            help="Role in the admin API: proxy_admin, proxy_admin_viewer, internal_user or internal_user_viewer."
        ),
    ] = "internal_user",
    key: Annotated[bool, typer.Option("--key", help="Also create a key for the user, and print it.")] = False,
    url: Url = HERE,
) -> None:
    """Create a user."""
    body = {"user_id": id_, "user_email": email, "user_role": role, "auto_create_key": key}
    say(ask(url, "POST", "/user/new", body))


@users.command("list")
def list_users(page: Annotated[int, typer.Option(help="Number of the page.", min=1)] = 1, url: Url = HERE) -> None:
    """List users, the newest first, 100 per page."""
    found = ask(url, "GET", "/user/list", page=page, page_size=100)
    table(found["users"], "user_id", "user_email", "user_role", "models", "blocked", "spend")


@users.command("show")
def show_user(user: UserArgument, url: Url = HERE) -> None:
    """Show one user, with its keys and teams."""
    say(ask(url, "GET", "/user/info", user_id=user))


@users.command("delete")
def delete_user(user: UserArgument, url: Url = HERE) -> None:
    """Delete a user and its keys."""
    ask(url, "POST", "/user/delete", {"user_ids": [user]})

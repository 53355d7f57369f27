"""``letta-bridge sessions …``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from letta_bridge.agents.user_settings import UserSettings
from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, progress_told, settings_or_exit
from letta_bridge.cli.duplicate_agents import duplicate_agents
from letta_bridge.cli.output import moment, plain, print_json, print_table
from letta_bridge.cli.own_agents import refuse_other_agents
from letta_bridge.cli.state import ask, ask_sessions, ask_user_settings, in_database, in_file
from letta_bridge.errors import LettaError
from letta_bridge.http.records import SessionRecord, records
from letta_bridge.letta.factory import letta_client
from shared_utils.persistence.choices.port import copy_choices
from shared_utils.persistence.errors import RowMissing
from shared_utils.persistence.sessions.copying import CopyCounts, copy_sessions
from shared_utils.persistence.sessions.outage_log import SessionOutageLog
from shared_utils.persistence.sessions.port import Restoration, SessionStore
from shared_utils.text import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Inspect and change the sessions, which assign agents to users: in the database if one is configured, "
    "else in the session file.",
)

_AGENT_COLUMNS: Final = ("USER", "PERSONA", "AGENT", "MESSAGES", "PASSAGES", "STATE")
_COLUMNS: Final = ("SESSION", "USER", "PERSONA", "AGENT", "LAST USE", "MESSAGES", "MEMORY", "STATE")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The user's id, as producers send it.")]


class Place(StrEnum):
    """Places of sessions."""

    DATABASE = "database"
    FILE = "file"


@app.command(name="list")
def list_sessions(
    limit: Annotated[int, typer.Option(help="Maximum number of sessions.", min=1, max=1000)] = 20,
    offset: Annotated[int, typer.Option(help="Sessions to skip.", min=0)] = 0,
    user: Annotated[str | None, typer.Option(help="Only data of this user.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also list ended sessions.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List sessions, most recently used first."""

    async def read(store: SessionStore, choices: UserSettings) -> tuple[list[SessionRecord], int]:
        page = await store.page(limit=limit, offset=offset, include_inactive=every, user_id=user)
        return await records(page.sessions, choices), page.total

    sessions, total = ask_user_settings(settings_or_exit(config), read)
    if as_json:
        print_json({"total": total, "sessions": [_described(session) for session in sessions]})
        return
    if sessions:
        print_table(_COLUMNS, [_row(session) for session in sessions], numbers=("MESSAGES",))
    typer.echo(f"{len(sessions)} of {total} sessions")


@app.command()
def show(session_id: IdArgument, *, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show all fields of a session, active or not."""

    async def load(store: SessionStore, choices: UserSettings) -> SessionRecord:
        session = await store.load(session_id)
        if session is None:
            raise RowMissing(f"there is no session '{session_id}'; 'letta-bridge sessions list --all' shows their ids")
        return (await records([session], choices))[0]

    found = _described(ask_user_settings(settings_or_exit(config), load))
    _print(found, as_json=as_json)


@app.command()
def statistics(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Count sessions: active, without an agent, expired; by creation and last use."""
    numbers = ask_sessions(settings_or_exit(config), lambda store: store.statistics())
    _print(asdict(numbers), as_json=as_json)


@app.command()
def restore(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Read the active sessions as a bridge does at its start, and list those that cannot be read.

    A running bridge reads them itself, or on request: POST /api/sessions/restore.
    """
    settings = settings_or_exit(config)
    done = ask_sessions(settings, lambda store: store.restore(limit=settings.sessions.cached))
    if as_json:
        print_json({"restored": len(done.sessions), "failed": dict(done.failed)})
    else:
        typer.echo(_restored(done))
    raise typer.Exit(int(Exit.FAILED if done.failed else Exit.DONE))


@app.command()
def conflicts(
    limit: Annotated[int, typer.Option(help="Maximum number of conflicts.", min=1, max=1000)] = 20,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show session writes of an outage that the database rejected afterwards, newest first."""
    settings = settings_or_exit(config)

    async def read() -> list[dict[str, Any]]:
        journal = SessionOutageLog(settings.session_file)
        try:
            return [asdict(conflict) for conflict in await journal.conflicts(limit)]
        finally:
            journal.close()

    found = ask(read)
    if as_json:
        print_json({"conflicts": found})
        return
    for conflict in found:
        typer.echo(f"{conflict['happened']}  {conflict['session_id']}  {plain(conflict['reason'])}")
    typer.echo(f"{len(found)} conflicts; --json shows the rejected and the stored values")


@app.command()
def cleanup(
    grace_hours: Annotated[
        float | None,
        typer.Option(help="Hours to keep ended sessions; default: sessions.deleted_retention_hours.", min=0),
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """End expired sessions, and remove those that ended before the grace period. Bridges do this themselves."""
    settings = settings_or_exit(config)
    grace = timedelta(hours=settings.sessions.deleted_retention_hours if grace_hours is None else grace_hours)
    done = ask_sessions(settings, lambda store: store.cleanup(grace=grace))
    _print(asdict(done), as_json=as_json)


@app.command()
def delete(
    session_id: IdArgument,
    hard: Annotated[
        bool, typer.Option("--hard", help="Remove the row permanently; otherwise the session can be undeleted.")
    ] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """End a session, or remove its row. Agent and choices stay: the user's next task finds the agent again."""
    done = ask_sessions(settings_or_exit(config), lambda store: store.delete(session_id, hard=hard))
    if not done:
        fail(f"there is no {'' if hard else 'active '}session '{session_id}'", Exit.FAILED)
    if as_json:
        print_json({"session_id": session_id, "hard": hard})
    else:
        typer.echo(f"{session_id} is {'removed' if hard else 'ended'}")


@app.command()
def undelete(session_id: IdArgument, *, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Make an ended session active again."""

    async def undo(store: SessionStore, choices: UserSettings) -> SessionRecord:
        return (await records([await store.undelete(session_id)], choices))[0]

    session = ask_user_settings(settings_or_exit(config), undo)
    if as_json:
        print_json(_described(session))
    else:
        typer.echo(f"{session_id} is active")


@app.command()
def settings(
    user: UserArgument,
    permanent_memory: Annotated[
        bool | None,
        typer.Option("--permanent-memory/--no-permanent-memory", help="Whether agents remember this user."),
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show a user's choice about permanent memory, or change it for all personas and bridges from the next turn on.

    A change needs Redis, where running bridges read it.
    """

    async def choose(_store: SessionStore, choices: UserSettings) -> bool:
        if permanent_memory is not None:
            await choices.set_permanent_memory(user, permanent_memory)
        return await choices.permanent_memory(user)

    found = settings_or_exit(config)
    if permanent_memory is not None:
        refuse_other_agents(found)
    result = ask_user_settings(found, choose, with_agents=permanent_memory is not None)
    _print({"user_id": user, "permanent_memory": result}, as_json=as_json)


@app.command()
def duplicates(
    remove_empty: Annotated[
        bool, typer.Option("--remove-empty", help="Delete agents without content that no session names.")
    ] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List users with several agents in Letta, and which agent is used.

    Searches all agents of the tenant. For agents in state conflicting, docs/troubleshooting.md describes how to merge
    their content.
    """
    settings = settings_or_exit(config)
    refuse_other_agents(settings)
    deleted: list[str] = []

    async def work(store: SessionStore) -> list[dict[str, Any]]:
        letta = letta_client(settings.letta)
        try:
            return await duplicate_agents(letta, settings, store, remove=remove_empty, deleted=deleted.append)
        finally:
            await letta.close()

    with progress_told(lambda: f"{counted(len(deleted), 'empty agent')} deleted; repeat the command to go on"):
        try:
            found = ask_sessions(settings, work)
        except LettaError as error:
            fail(f"{error}; run this again", Exit.FAILED)
    if as_json:
        print_json({"agents": found})
    elif found:
        print_table(_AGENT_COLUMNS, [tuple(agent.values()) for agent in found], numbers=("MESSAGES", "PASSAGES"))
    if not as_json:
        users = len({(agent["user_id"], agent["persona"]) for agent in found})
        typer.echo(f"{users} users with several agents, {len(found)} agents in total")
    left = [agent for agent in found if agent["state"] != "deleted"]
    raise typer.Exit(int(Exit.FAILED if len(left) > len({(a["user_id"], a["persona"]) for a in left}) else Exit.DONE))


@app.command(name="test")
def check(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show which store serves the sessions: product, version, place."""
    answers = ask_sessions(settings_or_exit(config), lambda store: store.check())
    _print({"connected": True, "store": answers}, as_json=as_json)


@app.command()
def migrate(
    to: Annotated[Place, typer.Option(help="The store to copy to.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be copied.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Copy sessions and choices from the file to the database, or back.

    The command may be repeated; the newer version of a session stays. It does not change the source. A bridge uses the
    database if DATABASE_URL is set, and the file otherwise.
    """
    found = settings_or_exit(config, may_create=to is Place.DATABASE and not dry_run)

    async def copy() -> CopyCounts:
        async with in_database(found) as database, in_file(found) as file:
            await database.sessions.check()  # it may be mistyped, also where there is nothing to copy
            source, target = (file, database) if to is Place.DATABASE else (database, file)
            if not dry_run:
                await copy_choices(source.choices, target.choices)
            return await copy_sessions(source.sessions, target.sessions, dry_run, so_far.append)

    so_far = [CopyCounts()]
    with progress_told(
        lambda: f"{counted(so_far[-1].written, 'session')} copied; those stay, repeat the command to go on",
        (lambda: {"dry_run": dry_run, **asdict(so_far[-1])}) if as_json else None,
    ):
        counts = asdict(ask(copy))
    _print({"dry_run": dry_run, **counts}, as_json=as_json)
    raise typer.Exit(int(Exit.FAILED if counts["refused"] or counts["unreadable"] else Exit.DONE))


def _described(session: SessionRecord) -> dict[str, Any]:
    return session.model_dump(mode="json")


def _row(session: SessionRecord) -> Sequence[object]:
    return (
        session.session_id,
        session.user_id,
        session.persona,
        session.agent_id or "-",
        moment(session.last_updated.timestamp()),
        session.message_count,
        "on" if session.permanent_memory else "off",
        "active" if session.is_active else "ended",
    )


def _restored(done: Restoration) -> str:
    lines = [f"{session_id}: {why}" for session_id, why in done.failed.items()]
    return "\n".join(map(plain, [*lines, f"{len(done.sessions)} sessions can be read, {len(done.failed)} cannot"]))


def _print(content: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(content)
        return
    for name, value in content.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key}: {item}" for key, item in value.items()) or "-"
        else:
            text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        typer.echo(f"{name.replace('_', ' '):<18} {plain(text)}")

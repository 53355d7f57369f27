"""``letta-bridge user show|export|erase``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from letta_bridge.cli.choice import choice_record, choice_text
from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, settings_or_exit
from letta_bridge.cli.output import print_json, print_table
from letta_bridge.redis_trouble import explained
from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.files import write_json
from letta_bridge.user_data.places import user_data
from letta_bridge.user_data.trace import Counts
from shared_utils.errors import ServiceError
from shared_utils.redis_connection import CONNECTION_ERRORS

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Everything that is kept of one user: agents, sessions, conversations, replies, short-term memory.",
)

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The user's id, as producers send it.")]
_Result = TypeVar("_Result")


@app.command()
def show(user: UserArgument, *, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Count a user's data in every store, and show the user's choice about permanent memory."""
    settings = settings_or_exit(config)
    counts = _ask(settings, lambda data: data.count(user))
    choice = choice_record(settings, user)
    if as_json:
        print_json({**counts, "permanent_memory": choice["permanent_memory"]})
        return
    _tell(counts, as_json=False, did="there")
    typer.echo(f"permanent memory: {choice_text(choice)}")


@app.command()
def export(
    user: UserArgument,
    to: Annotated[Path, typer.Option("--to", help="Directory to write to; made if missing.", file_okay=False)],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write all of it to a directory: agent files, and a line of JSON for everything else."""
    if to.exists() and any(to.iterdir()):
        fail(f"{to} is not empty; name a new directory", Exit.USAGE)
    settings = settings_or_exit(config)
    write_json(to / "choice.json", choice_record(settings, user))  # before the export, whose manifest completes it
    counts = _ask(settings, lambda data: data.export(user, to))
    _tell(counts, as_json=as_json, did=f"written to {to}")


@app.command()
def erase(
    user: UserArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a turn in flight.", min=0)] = 60.0,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove all of it for good. It can be repeated: where it broke off, it goes on.

    A later message of the user gets a new agent, unless the user has opted out of permanent memory: the choice is kept
    under a hash of the user id. An audit row is kept, too: a hash of the user id, the time and the counts.
    """
    settings = settings_or_exit(config)
    if dry_run:
        _tell(_ask(settings, lambda data: data.count(user)), as_json=as_json, did="would go")
        return
    if not yes and not typer.confirm(f"Erase everything of user {user!r}?", err=True):
        fail("nothing was erased", Exit.FAILED)
    _tell(_ask(settings, lambda data: data.erase(user), wait=wait), as_json=as_json, did="erased")


def _ask(settings: BridgeSettings, work: Callable[[UserData], Awaitable[_Result]], *, wait: float = 0) -> _Result:
    async def ask() -> _Result:
        async with user_data(settings, patience=wait) as data:
            return await work(data)

    try:
        return asyncio.run(ask())
    except ServiceError as error:
        fail(f"{error}; what was not reached is done when this is run again", Exit.FAILED)
    except CONNECTION_ERRORS as error:
        fail(explained(error), Exit.NO_REDIS)


def _tell(counts: Counts, *, as_json: bool, did: str) -> None:
    if as_json:
        print_json(dict(counts))
        return
    print_table(("WHAT", "HOW MANY"), [(name.replace("_", " "), count) for name, count in counts.items()])
    typer.echo(f"{sum(counts.values())} {did}")

"""``letta-bridge user show|export|folder|erase|hold|release|drop``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from letta_bridge.cli.choice import choice_record, choice_text
from letta_bridge.cli.common import (
    ConfigOption,
    Exit,
    JsonOption,
    ask_redis,
    check_directory,
    fail,
    progress_told,
    settings_or_exit,
)
from letta_bridge.cli.interruption import run_command
from letta_bridge.cli.output import duration, plain, print_json, print_table, seconds_of
from letta_bridge.cli.own_agents import refuse_other_agents
from letta_bridge.cli.progress import SlowSteps
from letta_bridge.request_queue.holds import LONGEST_SECONDS, Holds, LaneHeld
from letta_bridge.request_queue.keys import Keys, user_lane
from letta_bridge.settings import BridgeSettings
from letta_bridge.turn.uploads import user_folder
from letta_bridge.user_data.agent_data import CONTENTS
from letta_bridge.user_data.dropped_tasks import drop_waiting
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.files import write_json
from letta_bridge.user_data.port import Counts
from letta_bridge.user_data.registry import user_data
from letta_bridge.user_data.report import BEYOND_REACH, ErasureReport
from shared_utils.errors import ServiceError
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import explain
from shared_utils.text import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Show, export, erase, hold or drop the data of one user, in all stores.",
)


def _text(user: str) -> str:
    if not user:  # the field of everybody's tokens in {Q}:tokens:<day> has this name
        raise typer.BadParameter("a user id cannot be empty; tasks without a user id belong to the user 'anonymous'")
    try:
        user.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("the id is not UTF-8 text, so no producer can have sent it") from None
    return user


UserArgument = Annotated[
    str, typer.Argument(metavar="USER", help="The user's id, as producers send it.", callback=_text)
]
_Result = TypeVar("_Result")
_SPARE_SECONDS = 10.0
"""Added to the longest turn, for its settlement."""
_OTHER_SECONDS = 600.0
"""For another erasure of the same user, which may have a million keys to look through."""


@app.command()
def show(user: UserArgument, *, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Count a user's data in every store, and show the user's choice about permanent memory."""
    settings = settings_or_exit(config)
    refuse_other_agents(settings)
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
    to: Annotated[Path, typer.Option("--to", help="Directory to write to; created if missing.")],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write a user's data to a directory that only its owner can read.

    Every agent becomes a snapshot; everything else becomes JSON lines. `agents/contents.json` lists the contents of
    each agent's file and the data that could not be exported. The export is complete once `manifest.json` exists.
    """
    check_directory(to)
    if to.exists() and any(to.iterdir()):
        fail(f"{to} is not empty; name a new directory", Exit.USAGE)
    settings = settings_or_exit(config)
    refuse_other_agents(settings)
    write_json(to / "choice.json", choice_record(settings, user))  # before the export, whose manifest completes it
    with progress_told(lambda: f"the export in {to} is not complete, as it has no manifest.json; repeat it elsewhere"):
        counts = _ask(settings, lambda data: data.export(user, to))
    _tell(counts, as_json=as_json, did=f"written to {to}")
    if counts.get("agents") and not as_json:
        typer.echo(f"not exported: {'; '.join(_not_carried(to / CONTENTS))}")


@app.command()
def folder(user: UserArgument, *, config: ConfigOption = None) -> None:
    """Print the directory of the user's uploads, the only one from which the user's tasks may name files."""
    settings = settings_or_exit(config)
    typer.echo(settings.upload_dir / user_folder(user))


@app.command()
def erase(
    user: UserArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            help="Seconds to wait for the turn in flight (default: the longest time a turn may take), and for "
            "another erasure.",
            min=0,
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Erase a user's data permanently, then search every place for remains.

    No turn of the user begins meanwhile; waiting and arriving tasks get an error reply with the code 'erased'. The
    command may be repeated and continues an interrupted erasure. A later message of the user gets a new agent, unless
    the user has opted out of permanent memory: the choice is kept under a hash of the user id. An audit row with the
    time and the counts is kept, too. Steps that take longer than a second are shown on standard error.
    """
    settings = settings_or_exit(config)
    refuse_other_agents(settings)
    if dry_run:
        _tell(_ask(settings, lambda data: data.count(user)), as_json=as_json, did="would go")
        return
    if not yes and not typer.confirm(f"Erase everything of user {user!r}?", err=True):
        fail("nothing was erased", Exit.FAILED)
    longest = settings.letta.reply_deadline_seconds + settings.fallback.timeout_seconds + _SPARE_SECONDS
    waits = (longest, _OTHER_SECONDS) if wait is None else (wait, wait)
    steps = SlowSteps()

    def how_far() -> str:
        return (
            f"it stopped {f'while {steps.step}' if steps.step else 'before it had begun'}: what was erased is gone, "
            "the rest is still there, and turns of the user begin again within a minute; repeat the command to go on"
        )

    with progress_told(how_far, (lambda: {"complete": False, "step": steps.step}) if as_json else None):
        report = _ask(settings, lambda data: data.erase(user, steps), waits=waits)
    if as_json:
        print_json(report.as_json())
    else:
        _tell_report(report)
    if not report.complete:
        fail("the erasure is incomplete; run the command again when the places named above can be reached", Exit.FAILED)


def _not_carried(contents: Path) -> list[str]:
    said = json.loads(contents.read_bytes())
    return [*said["never_carried"], *dict.fromkeys(what for agent in said["agents"] for what in agent["not_carried"])]


@app.command()
def hold(
    user: UserArgument,
    period: Annotated[str, typer.Option("--for", help="Duration: 90s, 10m, 2h or 1d.")] = "1h",
    reason: Annotated[str, typer.Option(help="Shown by 'lanes'.")] = "",
    *,
    config: ConfigOption = None,
) -> None:
    """Let no turn of this user begin for a while, on all bridges; other users are not affected.

    A turn in flight ends as usual. Tasks wait in the user's lane, up to `limits.max_pending_per_user`; 'user drop' ends
    the waiting ones. The hold ends by itself, or with 'user release'.
    """
    seconds = seconds_of(period)
    if seconds is None or not 1 <= seconds <= LONGEST_SECONDS:
        fail(f"'{period}' is not a valid duration; use for example 90s, 10m, 2h or 1d; the maximum is 30d", Exit.USAGE)
    settings = settings_or_exit(config)
    keys, why = Keys(settings.queue.requests), plain(reason) or "an operator"
    try:
        refused = ask_redis(settings, lambda client: Holds(client, keys).keep(user_lane(user), why, seconds))
    except LaneHeld as error:
        fail(str(error), Exit.FAILED)
    if refused:
        fail(
            "an erasure holds this user; wait until it has ended, or end its hold with 'letta-bridge user release'",
            Exit.FAILED,
        )
    typer.echo(f"held for {duration(seconds)}: no turn of this user begins; 'letta-bridge user release' ends the hold")


@app.command()
def drop(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """End all waiting tasks of this user with an error reply (code 'dropped'); memory and turns in flight stay.

    A task that a bridge has begun before also stays, because Letta or memory-python may have received it. New tasks may
    arrive: use 'user hold' first to keep them from being processed.
    """
    settings = settings_or_exit(config)
    if not yes and not typer.confirm(f"Drop every waiting task of user {user!r}?", err=True):
        fail("nothing was dropped", Exit.FAILED)
    dropped: list[int] = []

    def told() -> str:
        return f"{counted(sum(dropped), 'waiting task')} dropped"

    with progress_told(
        lambda: f"{told()}; the others still wait: repeat the command to go on",
        (lambda: {"dropped": sum(dropped)}) if as_json else None,
    ):
        ask_redis(settings, lambda client: drop_waiting(client, settings.queue, user, dropped.append))
    if as_json:
        print_json({"dropped": sum(dropped)})
    else:
        typer.echo(told())


@app.command()
def release(user: UserArgument, *, config: ConfigOption = None) -> None:
    """End the hold of an operator or an erasure on a user's lane, so that bridges serve the user again.

    The hold of a killed erasure expires within a minute. A running erasure takes its hold back within a second: stop
    its process instead.
    """
    settings = settings_or_exit(config)
    keys = Keys(settings.queue.requests)
    if ask_redis(settings, lambda client: Holds(client, keys).lift(user_lane(user))):
        typer.echo("released: bridges serve this user again")
    else:
        fail("this user is not held", Exit.FAILED)


def _ask(
    settings: BridgeSettings,
    work: Callable[[UserData], Awaitable[_Result]],
    *,
    waits: tuple[float, float] = (0.0, 0.0),
) -> _Result:
    """The result of ``work``. ``waits``: seconds to wait for a turn in flight, and for another erasure of the user."""

    async def ask() -> _Result:
        async with user_data(settings, patience=waits[0], hold_patience=waits[1]) as data:
            return await work(data)

    try:
        return run_command(ask())
    except ServiceError as error:
        fail(f"{error}; run the command again to process the rest", Exit.FAILED)
    except CONNECTION_ERRORS as error:
        fail(explain(error), Exit.NO_REDIS)


def _tell(counts: Counts, *, as_json: bool, did: str) -> None:
    if as_json:
        print_json(dict(counts))
        return
    print_table(("WHAT", "HOW MANY"), [(name.replace("_", " "), count) for name, count in counts.items()])
    typer.echo(f"{sum(counts.values())} {did}")


def _tell_report(report: ErasureReport) -> None:
    rows = [
        (name.replace("_", " "), _number(place.found), place.removed, _number(place.left))
        for name, place in report.places.items()
    ]
    print_table(("PLACE", "FOUND", "REMOVED", "LEFT"), rows, numbers=("FOUND", "REMOVED", "LEFT"))
    for name, why in report.unreachable.items():
        typer.echo(f"could not be reached: {name}: {why}")
    for key in report.elsewhere:
        typer.echo(f"still names the user: the Redis key {plain(key)}")
    for bridge in report.behind:
        typer.echo(f"has not confirmed the erasure: the bridge {bridge}; bridges of older releases never confirm")
    if report.arrived_since:
        typer.echo(f"{report.arrived_since} tasks have arrived since; they start a new history")
    typer.echo(f"{sum(place.removed for place in report.places.values())} erased")
    typer.echo("no erasure reaches:")
    for place in BEYOND_REACH:
        typer.echo(f"  {place}")


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)

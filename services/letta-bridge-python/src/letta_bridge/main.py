"""The entry of ``letta-bridge``; one module of ``cli/`` per command."""

from __future__ import annotations

import sys

import typer

from letta_bridge import __version__
from letta_bridge.cli import (
    backup,
    config,
    dead,
    doctor,
    drain,
    lanes,
    migrate,
    pause,
    replay,
    run,
    send,
    sessions,
    status,
    tail,
    user,
    vectors,
)
from letta_bridge.cli.common import refuse_undecodable
from shared_utils.config.settings import LogSettings
from shared_utils.observability import logs

app = typer.Typer(
    name="letta-bridge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Answers chat tasks from Redis through each user's own Letta agent.\n\n"
    "Settings come from config.json, then config.local.json beside it, then the environment (docs/configuration.md).",
    epilog="Exit codes: 0 done; 1 an error reply, or unhealthy; 2 wrong usage or configuration; 3 not done in time; "
    "4 Redis cannot be reached, or refuses; 5 nor can the database, or the session file. More in docs/cli.md.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    _version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


app.command(name="run")(run.run)
app.command(name="send")(send.send)
app.command(name="status")(status.status)
app.command(name="tail")(tail.tail)
app.command(name="lanes")(lanes.lanes)
app.add_typer(dead.app, name="dead")
app.command(name="replay")(replay.replay)
app.command(name="pause")(pause.pause)
app.command(name="resume")(pause.resume)
app.command(name="drain")(drain.drain)
app.add_typer(user.app, name="user")
app.command(name="backup")(backup.backup)
app.command(name="restore")(backup.restore)
app.command(name="migrate")(migrate.migrate)
app.add_typer(sessions.app, name="sessions")
app.add_typer(vectors.app, name="vectors")
app.command(name="config")(config.config)
app.command(name="doctor")(doctor.doctor)


def main() -> None:
    """Run the command line. Commands log to standard error; ``run`` logs as configured."""
    logs.configure(LogSettings(level="warning", format="console"), "letta-bridge", stream=sys.stderr)
    refuse_undecodable(sys.argv[1:])
    app()


if __name__ == "__main__":
    main()

"""The entry of ``letta-bridge``; one module of ``cli/`` per command."""

from __future__ import annotations

import typer

from letta_bridge import __version__
from letta_bridge.cli import run, send, status

app = typer.Typer(
    name="letta-bridge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Answers chat tasks from Redis through each user's own Letta agent.\n\n"
    "Settings come from config.json, then config.local.json beside it, then the environment (docs/configuration.md).",
    epilog="Exit codes: 0 done; 1 an error reply, or unhealthy; 2 wrong usage or configuration; 3 no reply in time; "
    "4 Redis cannot be reached.",
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


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()

"""The command ``letta-server move``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from letta_server.console import say, show
from letta_server.database import wait_for_server
from letta_server.errors import SettingsRefused
from letta_server.settings import Settings
from letta_server.transfer.display import display
from letta_server.transfer.move import Move

BecomeLetta = Callable[[Settings, Path], None]
"""Gives this process the environment that Letta's models are imported in."""


def register(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    parents: Sequence[argparse.ArgumentParser],
    become_letta: BecomeLetta,
) -> None:
    """Add the command to the command line.

    Args:
        commands: where to.
        parents: bring ``--data``.
        become_letta: called only where the target has no schema yet.
    """
    move = commands.add_parser(
        "move",
        parents=list(parents),
        help="copy everything into another database, PostgreSQL or openGauss",
        description="Copy a whole Letta database into a new or empty one, PostgreSQL or openGauss, and compare the two "
        "at the end. Stop Letta first. The source is only read. After an interruption, the same command continues.",
        epilog="A password may be left out of the URLs and kept in ~/.pgpass (or the file PGPASSFILE names). Letta's "
        "encrypted secrets stay encrypted: give the new server the same LETTA_ENCRYPTION_KEY.",
    )
    url = "postgresql://user:password@host:port/database"
    move.add_argument("--from", dest="source", required=True, metavar="URL", help=f"the source: {url}")
    move.add_argument("--to", dest="target", required=True, metavar="URL", help="the target; created if missing")
    move.add_argument("--batch", type=_count, default=1000, help="maximum rows per transaction (default: 1000)")
    only = move.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="list what would be copied; write nothing")
    only.add_argument("--verify", action="store_true", help="compare only; write nothing")
    move.set_defaults(command=lambda given: _move(given, become_letta))


def _move(given: argparse.Namespace, become_letta: BecomeLetta) -> int:
    source, target = _settings("--from", given.source), _settings("--to", given.target)
    for side in (source, target):
        wait_for_server(side.database, side.wait)
    with display() as shown:
        move = Move(source.database, target.database, shown)
        if given.dry_run:
            return _preview(move)
        if given.verify:
            rows = move.verify()
        else:
            rows = move.run(batch=given.batch, before_schema=lambda: _prepare(target, given.data, become_letta))
    say(f"{move.target} contains the same as {move.source}: {rows} rows, compared one by one.")
    return 0


def _preview(move: Move) -> int:
    counts, state = move.preview()
    for table, rows in counts:
        show(f"{table}: {rows} rows")
    say(f"{len(counts)} tables, {sum(rows for _, rows in counts)} rows would be copied; {move.target} {state.value}.")
    return 0


def _prepare(target: Settings, data: Path, become_letta: BecomeLetta) -> None:
    # Letta's home is not the operator's, where libpq would look for passwords.
    os.environ.setdefault("PGPASSFILE", str(Path.home() / ".pgpass"))
    become_letta(target, data)


def _settings(option: str, url: str) -> Settings:
    """As if the environment named this database, and no more."""
    waiting = {name: value for name, value in os.environ.items() if name == "LETTA_SERVER_WAIT"}
    try:
        return Settings.from_environment({"LETTA_PG_URI": url, **waiting})
    except SettingsRefused as refusal:
        raise SettingsRefused(str(refusal).replace("LETTA_PG_URI", option)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of rows")
    return int(text)

"""What the commands share: the settings option, exit codes, and how an error is told."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from letta_bridge.settings import BridgeSettings, read_settings
from shared_utils.errors import SettingsError
from shared_utils.logs import redact_text

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        exists=True,
        dir_okay=False,
        help="config.json to read; by default LETTA_BRIDGE_CONFIG or ./config.json.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    """An error reply, or an unhealthy service."""
    USAGE = 2
    """Wrong arguments or configuration."""
    TIMEOUT = 3
    """No reply in time."""
    NO_REDIS = 4
    """Redis cannot be reached."""


def settings_or_exit(config: Path | None, flags: dict[str, Any] | None = None) -> BridgeSettings:
    """The settings; a wrong one ends the command with one sentence."""
    try:
        return read_settings(config, flags=flags).settings
    except SettingsError as error:
        fail(str(error), Exit.USAGE)


def fail(sentence: str, code: Exit) -> NoReturn:
    """End the command: one sentence on standard error, without secrets."""
    typer.echo(f"letta-bridge: {redact_text(sentence)}", err=True)
    raise typer.Exit(int(code))

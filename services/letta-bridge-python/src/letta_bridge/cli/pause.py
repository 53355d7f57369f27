"""``letta-bridge pause`` and ``letta-bridge resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from letta_bridge.cli.common import ConfigOption, JsonOption, ask_redis, settings_or_exit
from letta_bridge.cli.output import moment, plain, print_json
from letta_bridge.request_queue import PauseMode
from letta_bridge.request_queue.admin import Pause, QueueAdmin

ReasonOption = Annotated[str, typer.Option(help="Shown to whoever asks for the status.")]


def pause(reason: ReasonOption = "", *, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Stop all bridges of this queue from taking tasks and from beginning turns, until 'resume'.

    Turns in flight end as usual, leases are kept, replies go out, and producers may push on: their tasks wait in the
    request list. The pause lies in Redis, so it also holds for bridges that start later.
    """
    settings = settings_or_exit(config)
    ask_redis(settings, lambda client: QueueAdmin(client, settings.queue).pause(PauseMode.ALL, reason))
    if as_json:
        print_json({"paused": PauseMode.ALL.value, "reason": reason})
    else:
        typer.echo("paused: nothing is taken and nothing begun; 'letta-bridge resume' ends it")


def resume(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Let work go on after 'pause' or 'drain'. Without either it changes nothing."""
    settings = settings_or_exit(config)
    ended = ask_redis(settings, lambda client: QueueAdmin(client, settings.queue).resume())
    if as_json:
        print_json({"was": None if ended is None else ended.mode.value, "since": ended.since if ended else None})
    elif ended is None:
        typer.echo("nothing was paused")
    else:
        typer.echo(f"resumed; it was paused {pause_told(ended)}")


def pause_told(pause: Pause) -> str:
    """Since when and why, for people."""
    return f"since {moment(pause.since)} ({plain(pause.reason) or 'no reason given'})"

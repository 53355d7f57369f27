"""``letta-bridge pause`` and ``letta-bridge resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from letta_bridge.cli.common import ConfigOption, JsonOption, ask_redis, settings_or_exit
from letta_bridge.cli.output import moment, plain, print_json
from letta_bridge.request_queue import PauseMode
from letta_bridge.request_queue.admin import Pause, QueueAdmin

ReasonOption = Annotated[str, typer.Option(help="Reason, shown by status and /health.")]


def pause(reason: ReasonOption = "", *, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Stop all bridges of this queue from taking tasks and beginning turns, until 'resume'.

    Turns in flight end as usual, leases are renewed, and replies are published. Producers may continue to push; their
    tasks wait in the request list. The pause is stored in Redis, so it also applies to bridges that start later.
    """
    settings = settings_or_exit(config)
    ask_redis(settings, lambda client: QueueAdmin(client, settings.queue).pause(PauseMode.ALL, reason))
    if as_json:
        print_json({"paused": PauseMode.ALL.value, "reason": reason})
    else:
        typer.echo("paused: bridges take no tasks and begin no turns; 'letta-bridge resume' ends the pause")


def resume(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """End the pause of 'pause' or 'drain'. Without a pause it changes nothing."""
    settings = settings_or_exit(config)
    ended = ask_redis(settings, lambda client: QueueAdmin(client, settings.queue).resume())
    if as_json:
        print_json({"was": None if ended is None else ended.mode.value, "since": ended.since if ended else None})
    elif ended is None:
        typer.echo("nothing was paused")
    else:
        typer.echo(f"resumed; it was paused {pause_told(ended)}")


def pause_told(pause: Pause) -> str:
    """The start and the reason of the pause, for people."""
    return f"since {moment(pause.since)} ({plain(pause.reason) or 'no reason given'})"

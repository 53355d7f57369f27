"""``letta-bridge status``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, settings_or_exit
from letta_bridge.cli.output import print_json
from letta_bridge.request_queue import PauseMode, QueueStatus, RedisQueue

_PAUSES = {
    None: "no",
    PauseMode.ALL: "yes: nothing is taken and nothing begun",
    PauseMode.INTAKE: "intake only: lanes are worked off",
}


def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the queue as Redis has it: what waits, what runs, how tasks ended. Fails where no bridge is alive."""
    settings = settings_or_exit(config)
    queue = ask_redis(settings, lambda client: RedisQueue(client, client, settings.queue, "status").status())
    if as_json:
        print_json(asdict(queue))
    else:
        typer.echo(_table(queue, settings.queue.requests))
    raise typer.Exit(int(Exit.DONE if queue.bridges else Exit.FAILED))


def _table(queue: QueueStatus, name: str) -> str:
    rows: list[tuple[str, object]] = [
        ("queue", name),
        ("bridges alive", queue.bridges),
        ("paused", _PAUSES[queue.paused]),
        ("tasks not taken", queue.depth),
        ("waiting in lanes", queue.waiting),
        ("in flight", queue.in_flight),
        ("oldest in flight", f"{queue.oldest_age:.1f} s"),
        ("dead letters", queue.dead),
        ("answers", queue.recent),
        *((counter.replace("settled:", "settled by "), count) for counter, count in sorted(queue.counters.items())),
    ]
    return "\n".join(f"{label:<20} {value}" for label, value in rows)

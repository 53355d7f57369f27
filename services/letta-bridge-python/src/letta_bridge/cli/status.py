"""``letta-bridge status``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit
from letta_bridge.cli.local_bridge import not_ready
from letta_bridge.cli.output import print_json
from letta_bridge.request_queue import PauseMode, QueueStatus, RedisQueue
from letta_bridge.request_queue.admin import QueueAdmin
from shared_utils.redis_connection import RedisClient
from shared_utils.redis_trouble import RedisTrouble

_PAUSES = {
    None: "no",
    PauseMode.ALL: "yes: nothing is taken and nothing begun",
    PauseMode.INTAKE: "intake only: lanes are worked off",
}


def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the queue as Redis has it: what waits, what runs, how tasks ended.

    Fails where no bridge is alive, where Redis would not let one work, and where this host's bridge takes nothing.
    """
    settings = settings_or_exit(config)

    async def look(client: RedisClient) -> tuple[RedisTrouble | None, QueueStatus | None]:
        trouble = await QueueAdmin(client, settings.queue).trouble()
        if trouble is not None and trouble.code == "wrongtype":
            return trouble, None  # what lies there cannot be counted
        return trouble, await RedisQueue(client, client, settings.queue, "status").status()

    trouble, queue = ask_redis(settings, look)
    if queue is None:
        fail(str(trouble), Exit.NO_REDIS)
    why = str(trouble) if trouble else not_ready(settings.bridge)
    if as_json:
        print_json({**asdict(queue), "trouble": why})
    else:
        typer.echo(_table(queue, settings.queue.requests, why))
    raise typer.Exit(int(Exit.DONE if queue.bridges and why is None else Exit.FAILED))


def _table(queue: QueueStatus, name: str, trouble: str | None) -> str:
    rows: list[tuple[str, object]] = [
        ("queue", name),
        *([] if trouble is None else [("trouble", trouble)]),
        ("bridges alive", queue.bridges),
        ("paused", _PAUSES[queue.paused]),
        ("tasks not taken", queue.depth),
        ("waiting in lanes", queue.waiting),
        ("in flight", queue.in_flight),
        ("oldest in flight", f"{queue.oldest_age:.1f} s"),
        ("dead letters", queue.dead),
        ("users held", queue.held),
        ("answers", queue.recent),
        *((counter.replace("settled:", "settled by "), count) for counter, count in sorted(queue.counters.items())),
    ]
    return "\n".join(f"{label:<20} {value}" for label, value in rows)

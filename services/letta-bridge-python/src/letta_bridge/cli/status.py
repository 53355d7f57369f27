"""``letta-bridge status``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit
from letta_bridge.cli.local_bridge import not_ready
from letta_bridge.cli.output import duration, print_json
from letta_bridge.cli.pause import pause_told
from letta_bridge.request_queue import PauseMode, QueueStatus, RedisQueue
from letta_bridge.request_queue.admin import Pause, QueueAdmin
from letta_bridge.request_queue.identity import QueueIdentity
from shared_utils.redis_connection import RedisClient
from shared_utils.redis_trouble import RedisTrouble

_PAUSES: Final = {
    PauseMode.ALL: "yes: nothing is taken and nothing begun",
    PauseMode.INTAKE: "intake only: lanes are worked off",
}


def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the queue as Redis has it: what waits, what runs, how tasks ended.

    Fails where no bridge is alive, where Redis would not let one work, and where this host's bridge takes nothing.
    """
    settings = settings_or_exit(config)

    async def look(client: RedisClient) -> tuple[RedisTrouble | None, QueueStatus | None, Pause | None, str | None]:
        admin = QueueAdmin(client, settings.queue)
        trouble = await admin.trouble()
        if trouble is not None and trouble.code == "wrongtype":
            return trouble, None, None, None  # what lies there cannot be counted
        queue = RedisQueue(client, client, settings.queue, "status")
        return trouble, await queue.status(), await admin.paused(), await QueueIdentity(client, queue.keys).kept()

    trouble, queue, pause, identity = ask_redis(settings, look)
    if queue is None:
        fail(str(trouble), Exit.NO_REDIS)
    why = str(trouble) if trouble else not_ready(settings.bridge)
    if as_json:
        since, reason = (pause.since, pause.reason) if pause else (None, None)
        more = {"queue": settings.queue.requests, "queue_id": identity, "trouble": why}
        print_json({**asdict(queue), **more, "paused_since": since, "pause_reason": reason})
    else:
        typer.echo(_table(queue, pause, settings.queue.requests, why))
    raise typer.Exit(int(Exit.DONE if queue.bridges and why is None else Exit.FAILED))


def _table(queue: QueueStatus, pause: Pause | None, name: str, trouble: str | None) -> str:
    rows: list[tuple[str, object]] = [
        ("queue", name),
        *([] if trouble is None else [("trouble", trouble)]),
        ("bridges alive", queue.bridges),
        ("paused", "no" if pause is None else f"{_PAUSES[pause.mode]}; {pause_told(pause)}"),
        ("tasks not taken", queue.depth),
        ("waiting in lanes", queue.waiting),
        ("in flight", queue.in_flight),
        ("oldest task", f"taken {duration(queue.oldest_age)} ago" if queue.oldest_age else "-"),
        ("dead letters", queue.dead),
        ("users held", queue.held),
        ("answers", queue.recent),
    ]
    return "\n".join(f"{label:<20} {value}" for label, value in rows)

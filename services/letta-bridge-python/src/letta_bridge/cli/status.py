"""``letta-bridge status``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit
from letta_bridge.cli.local_bridge import not_ready
from letta_bridge.cli.output import duration, plain, print_json
from letta_bridge.cli.pause import pause_told
from letta_bridge.request_queue import PauseMode, QueueStatus, RedisQueue
from letta_bridge.request_queue.admin import Lane, Pause, QueueAdmin
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.obstacles import crowded, crowded_lane, no_bridge
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.failures import RedisFailure

_PAUSES: Final = {
    PauseMode.ALL: "yes: bridges take no tasks and begin no turns",
    PauseMode.INTAKE: "intake only: lanes are processed",
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """The queue's state in Redis."""

    trouble: RedisFailure | None
    queue: QueueStatus | None = None
    """None where it cannot be counted."""
    pause: Pause | None = None
    identity: str | None = None
    crowd: Lane | None = None


def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the queue: waiting tasks, turns in flight, and how tasks ended.

    Fails if no bridge is alive, if Redis refuses commands that a bridge needs, or if this host's bridge takes no tasks.
    """
    settings = settings_or_exit(config)

    async def look(client: RedisClient) -> _Seen:
        admin = QueueAdmin(client, settings.queue)
        trouble = await admin.check_redis()
        if trouble is not None and trouble.code == "wrongtype":
            return _Seen(trouble)  # another type of value cannot be counted
        queue = RedisQueue(client, client, settings.queue, "status")
        identity = await QueueIdentity(client, queue.keys).kept()
        return _Seen(trouble, await queue.status(), await admin.paused(), identity, await crowded_lane(admin))

    seen = ask_redis(settings, look)
    queue, pause = seen.queue, seen.pause
    if queue is None:
        fail(str(seen.trouble), Exit.NO_REDIS)
    why = _trouble(settings, seen.trouble, queue)
    if as_json:
        since, reason = (pause.since, pause.reason) if pause else (None, None)
        more = {"queue": settings.queue.requests, "queue_id": seen.identity, "trouble": why}
        print_json({**asdict(queue), **more, "paused_since": since, "pause_reason": reason})
    else:
        typer.echo(_table(queue, pause, settings.queue.requests, why, seen.crowd))
    raise typer.Exit(int(Exit.DONE if why is None else Exit.FAILED))


def _trouble(settings: BridgeSettings, redis: RedisFailure | None, queue: QueueStatus) -> str | None:
    """Why no tasks are processed, with the remedy; None if no obstacle is found."""
    if redis is not None:
        return str(redis)
    if not queue.bridges:
        return no_bridge(settings.queue.requests, queue.depth + queue.waiting)
    return not_ready(settings.bridge)


def _table(queue: QueueStatus, pause: Pause | None, name: str, trouble: str | None, crowd: Lane | None) -> str:
    rows: list[tuple[str, object]] = [
        ("queue", name),
        *([] if trouble is None else [("trouble", trouble)]),
        ("bridges alive", queue.bridges),
        ("paused", "no" if pause is None else f"{_PAUSES[pause.mode]}; {pause_told(pause)}"),
        ("tasks not taken", queue.depth),
        ("waiting in lanes", queue.waiting),
        *([] if crowd is None else [("flood", plain("; ".join(crowded(crowd))))]),
        ("in flight", queue.in_flight),
        ("oldest task", f"taken {duration(queue.oldest_age)} ago" if queue.oldest_age else "-"),
        ("dead letters", queue.dead),
        ("users held", queue.held),
        ("answers", queue.recent.sentence),
    ]
    return "\n".join(f"{label:<20} {value}" for label, value in rows)

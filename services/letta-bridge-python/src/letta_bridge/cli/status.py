"""``letta-bridge status``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, settings_or_exit
from letta_bridge.request_queue import QueueStatus, RedisQueue
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import SettingsError
from shared_utils.redis_connection import CONNECTION_ERRORS, connect


def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show the queue as Redis has it: what waits, what runs, how tasks ended. Fails where no bridge is alive."""
    settings = settings_or_exit(config)
    try:
        queue = asyncio.run(_read(settings))
    except SettingsError as error:
        fail(str(error), Exit.USAGE)
    except CONNECTION_ERRORS as error:
        fail(f"Redis cannot be reached ({error}); check REDIS_URL", Exit.NO_REDIS)
    if as_json:
        typer.echo(json.dumps(asdict(queue)))
    else:
        typer.echo(_table(queue, settings.queue.requests))
    raise typer.Exit(int(Exit.DONE if queue.bridges else Exit.FAILED))


async def _read(settings: BridgeSettings) -> QueueStatus:
    client = connect(settings.redis, name="letta-bridge-status")
    queue = RedisQueue(client, client, settings.queue, "status")
    try:
        return await queue.status()
    finally:
        await queue.close()


def _table(queue: QueueStatus, name: str) -> str:
    rows: list[tuple[str, object]] = [
        ("queue", name),
        ("bridges alive", queue.bridges),
        ("tasks not taken", queue.depth),
        ("waiting in lanes", queue.waiting),
        ("in flight", queue.in_flight),
        ("oldest in flight", f"{queue.oldest_age:.1f} s"),
        ("dead letters", queue.dead),
        *((counter.replace("settled:", "settled by "), count) for counter, count in sorted(queue.counters.items())),
    ]
    return "\n".join(f"{label:<20} {value}" for label, value in rows)

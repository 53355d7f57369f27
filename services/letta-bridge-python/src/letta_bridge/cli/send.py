"""``letta-bridge send``."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Annotated, Any

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from shared_utils.messages import json_object, now
from shared_utils.redis_connection import RedisClient, subscriber


def send(
    text: Annotated[str, typer.Argument(help="What the user says.")],
    user: Annotated[str, typer.Option(help="The user's id.")] = "anonymous",
    memory: Annotated[str, typer.Option(help="permanent or temporary.")] = "permanent",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the reply.", min=0)] = 120.0,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Push one task and wait for its reply."""
    settings = settings_or_exit(config)
    task = {
        "task_id": str(uuid.uuid4()),
        "type": "text",
        "user_id": user,
        "content": text,
        "source": "user",
        "timestamp": now(),
        "meta": {"memory_type": memory},
    }
    reply = ask_redis(settings, lambda client: _exchange(client, settings, task, wait))
    if reply is None:
        fail(f"no reply to task {task['task_id']} within {wait:g} s; is a bridge running?", Exit.TIMEOUT)
    if as_json:
        typer.echo(json.dumps(reply, ensure_ascii=False))
    elif reply.get("error"):
        typer.echo(f"letta-bridge: {reply.get('message')}", err=True)
    else:
        typer.echo(reply["response_text"])
    raise typer.Exit(int(Exit.FAILED if reply.get("error") else Exit.DONE))


async def _exchange(
    client: RedisClient, settings: BridgeSettings, task: dict[str, Any], wait: float
) -> dict[str, Any] | None:
    """Push the task, then wait on its channel; the kept reply makes up for a publication that was missed."""
    kept = Keys(settings.queue.requests).reply(task["user_id"], task["task_id"])
    async with await subscriber(client, kept) as pubsub:
        await pubsub.subscribe(settings.queue.task_response + task["task_id"])
        await client.lpush(settings.queue.requests, json.dumps(task, ensure_ascii=False))
        until = asyncio.get_running_loop().time() + wait
        while True:
            reply = await client.get(kept)
            if reply:
                return json_object(reply)
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return None
            await pubsub.get_message(timeout=min(left, 1.0))

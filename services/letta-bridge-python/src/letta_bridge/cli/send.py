"""``letta-bridge send``."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit, tell
from letta_bridge.cli.local_bridge import not_ready
from letta_bridge.cli.pause import pause_told
from letta_bridge.request_queue import failure_causes, obstacles
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from shared_utils.contracts.messages import json_object, now
from shared_utils.redis.connection import RedisClient, subscriber


def send(
    text: Annotated[str, typer.Argument(help="The user's message.")],
    user: Annotated[str, typer.Option(help="The user's id.")] = "anonymous",
    memory: Annotated[str, typer.Option(help="permanent or temporary.")] = "permanent",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the reply.", min=0)] = 120.0,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Push one task and wait for its reply.

    The reply's text goes to standard output; who answered, and the obstacle that keeps the task waiting, to standard
    error.
    """
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
    reply, obstacle = ask_redis(settings, lambda client: _exchange(client, settings, task, wait))
    if reply is None:
        why = obstacle or not_ready(settings.bridge) or "a bridge is alive, but may be busy; see 'letta-bridge lanes'"
        fail(f"no reply to task {task['task_id']} within {wait:g} s: {why}", Exit.TIMEOUT)
    if as_json:
        typer.echo(json.dumps(reply, ensure_ascii=False))
    elif reply.get("error"):
        tell(str(reply.get("message")))
    else:
        typer.echo(reply["response_text"])
        tell(_answered_by(reply))
    raise typer.Exit(int(Exit.FAILED if reply.get("error") else Exit.DONE))


def _answered_by(reply: Mapping[str, Any]) -> str:
    """The answering service and, if it was not the agent, the reason."""
    if reply.get("source") == "letta":
        return f"answered by the agent {reply.get('agent_id') or '(unnamed)'}"
    what = " with its canned sentence, because its model did not answer either" if reply.get("canned") else ""
    return f"answered by {reply.get('source')}{what}, not by the user's agent: {_why(reply)}"


def _why(reply: Mapping[str, Any]) -> str:
    """Why the agent did not answer and, after a failure, the remedy."""
    codes = [str(reply[field]) for field in ("fallback_cause", "fallback_reason") if reply.get(field)]
    known = next((code for code in codes if failure_causes.is_explained(code)), None)
    if known is not None:
        return f"{failure_causes.meaning(known)}; {failure_causes.advice(known)}"
    return ", ".join(reversed(codes)) or "no reason given"


async def _exchange(
    client: RedisClient, settings: BridgeSettings, task: dict[str, Any], wait: float
) -> tuple[dict[str, Any] | None, str | None]:
    """Push the task, then wait on its channel; the stored reply replaces a publication that was missed.

    Returns:
        the reply, None if there is none in time; and the obstacle that keeps bridges from taking tasks, if any.
    """
    kept = Keys(settings.queue.requests).reply(task["user_id"], task["task_id"])
    async with await subscriber(client, kept) as pubsub:
        await pubsub.subscribe(settings.queue.task_response + task["task_id"])
        await client.lpush(settings.queue.requests, json.dumps(task, ensure_ascii=False))
        if (obstacle := await _obstacle(client, settings, task["user_id"])) is not None:
            tell(f"the task waits: {obstacle}")
        until = asyncio.get_running_loop().time() + wait
        while True:
            reply = await client.get(kept)
            if reply:
                return json_object(reply), None
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return None, await _obstacle(client, settings, task["user_id"])
            await pubsub.get_message(timeout=min(left, 1.0))


async def _obstacle(client: RedisClient, settings: BridgeSettings, user_id: str) -> str | None:
    """Why no bridge takes tasks now, with the remedy; None if no obstacle is found."""
    admin = QueueAdmin(client, settings.queue)
    if (pause := await admin.paused()) is not None:
        return f"the queue is paused {pause_told(pause)}; 'letta-bridge resume' ends the pause"
    if not await admin.live_bridges():
        return obstacles.no_bridge(settings.queue.requests)
    if (waiting := await admin.waiting_of(user_id)) > 1:  # one may be this one
        return f"{waiting} tasks of this user wait, and a user's tasks are processed one at a time; wait longer"
    return None

"""``letta-bridge send``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit, tell
from letta_bridge.cli.local_bridge import not_ready
from letta_bridge.cli.pause import pause_told
from letta_bridge.cli.streamed_reply import show, told_of_interrupt
from letta_bridge.request_queue import failure_causes, obstacles
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.settings import BridgeSettings
from letta_bridge_client import Bridge, NoReply, RedisUnavailable, Reply, TaskFailed
from letta_bridge_client.task import identifier
from shared_utils.contracts.message_fields import ANONYMOUS
from shared_utils.redis.connection import RedisClient


def send(
    text: Annotated[str, typer.Argument(help="The user's message.")],
    user: Annotated[str, typer.Option(help="The user's id.")] = "anonymous",
    memory: Annotated[str, typer.Option(help="permanent or temporary.")] = "permanent",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the reply.", min=0)] = 120.0,
    *,
    stream: Annotated[bool, typer.Option("--stream", help="Show the reply while the agent speaks.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Push one task and wait for its reply.

    The reply's text goes to standard output; who answered, and the obstacle that keeps the task waiting, to standard
    error. With --stream, sentences appear as they come (with --json, one event per line), and Ctrl-C interrupts the
    reply: the agent learns what was shown of it.
    """
    settings = settings_or_exit(config)
    try:
        message = _Message(identifier("user", user or ANONYMOUS), text, memory, wait, stream=stream, as_json=as_json)
    except ValueError as error:
        fail(str(error), Exit.USAGE)
    task_id, reply, obstacle = ask_redis(settings, lambda client: _exchange(client, settings, message))
    if reply is None:
        why = obstacle or not_ready(settings.bridge) or "a bridge is alive, but may be busy; see 'letta-bridge lanes'"
        fail(f"no reply to task {task_id} within {wait:g} s: {why}", Exit.TIMEOUT)
    if as_json:
        if not stream or not reply.ok:
            typer.echo(json.dumps(reply.raw, ensure_ascii=False))
    elif reply.ok:
        if not stream:
            typer.echo(reply.text)
        tell(told_of_interrupt(reply) if reply.interrupted else _answered_by(reply))
    else:
        tell(reply.text)
    if reply.interrupted:
        raise typer.Exit(int(Exit.INTERRUPTED))
    raise typer.Exit(int(Exit.DONE if reply.ok else Exit.FAILED))


def _answered_by(reply: Reply) -> str:
    """The answering service and, if it was not the agent, the reason."""
    if reply.source == "letta":
        return f"answered by the agent {reply.agent_id or '(unnamed)'}"
    what = " with its canned sentence, because its model did not answer either" if reply.canned else ""
    return f"answered by {reply.source}{what}, not by the user's agent: {_why(reply)}"


def _why(reply: Reply) -> str:
    """Why the agent did not answer and, after a failure, the remedy."""
    codes = [code for code in (reply.fallback_cause, reply.fallback_reason) if code]
    known = next((code for code in codes if failure_causes.is_explained(code)), None)
    if known is not None:
        return f"{failure_causes.meaning(known)}; {failure_causes.advice(known)}"
    return ", ".join(reversed(codes)) or "no reason given"


@dataclass(frozen=True, slots=True)
class _Message:
    user: str
    text: str
    memory: str
    wait_seconds: float
    stream: bool
    as_json: bool


async def _exchange(
    client: RedisClient, settings: BridgeSettings, message: _Message
) -> tuple[str, Reply | None, str | None]:
    """Push the task, then wait for its reply.

    Returns:
        The task's id; the reply, None if there is none in time; and then the obstacle that keeps bridges from taking
        tasks, if any.
    """
    await client.ping()  # without Redis the command ends at once
    queue = settings.queue
    async with Bridge(
        client,
        requests=queue.requests,
        task_response=queue.task_response,
        task_stream=queue.task_stream,
        control=queue.control_list,
    ) as bridge:
        try:
            if message.stream:
                return await _streamed(bridge, client, settings, message)
            task_id = await bridge.submit(message.user, message.text, memory=message.memory)
            await _tell_obstacle(client, settings, message.user)
            return task_id, await _reply(bridge, task_id, message), None
        except NoReply as error:
            return error.task_id, None, await _obstacle(client, settings, message.user)
        except RedisUnavailable as error:
            raise error.__cause__ or ConnectionError(str(error)) from None


async def _streamed(
    bridge: Bridge, client: RedisClient, settings: BridgeSettings, message: _Message
) -> tuple[str, Reply, None]:
    """As :func:`_exchange`, while the reply is shown."""
    seconds = message.wait_seconds
    async with bridge.stream(message.user, message.text, memory=message.memory, timeout=seconds) as stream:
        await _tell_obstacle(client, settings, message.user)
        try:
            return stream.task_id, await show(stream, as_json=message.as_json), None
        except TaskFailed as error:
            return stream.task_id, error.reply, None


async def _tell_obstacle(client: RedisClient, settings: BridgeSettings, user_id: str) -> None:
    if (obstacle := await _obstacle(client, settings, user_id)) is not None:
        tell(f"the task waits: {obstacle}")


async def _reply(bridge: Bridge, task_id: str, message: _Message) -> Reply:
    try:
        return await bridge.resume(task_id, message.user, timeout=message.wait_seconds)
    except TaskFailed as error:
        return error.reply


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

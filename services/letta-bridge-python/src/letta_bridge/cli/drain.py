"""``letta-bridge drain``."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit, tell
from letta_bridge.cli.output import print_json
from letta_bridge.cli.pause import ReasonOption
from letta_bridge.request_queue import PauseMode, QueueStatus, RedisQueue
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.text import counted

_POLL_SECONDS: Final = 0.2
_STAYS_CLOSED: Final = (
    "the queue stays paused: no bridge takes new tasks until 'letta-bridge resume'; tasks already taken are processed"
)


@dataclass(frozen=True, slots=True)
class _Left:
    """The unfinished work."""

    in_flight: int
    lanes: int
    bridges: int
    held: int
    """Users whose turns an operator or an erasure holds back."""

    @property
    def nothing(self) -> bool:
        return not (self.in_flight or self.lanes)


def drain(
    timeout: Annotated[float, typer.Option(help="Maximum seconds to wait.", min=0)] = 300.0,
    reason: ReasonOption = "drain",
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Close the intake, and return when no task is in flight or waits in a lane.

    Use it before an upgrade or a change to Letta. Tasks in the request list stay there, and the intake stays closed for
    all bridges of this queue until 'resume', also after a timeout. If the queue was paused, its lanes are processed.
    """
    settings = settings_or_exit(config)
    both = (signal.SIGINT, signal.SIGTERM)
    try:
        left = ask_redis(settings, lambda client: _drained(client, settings, timeout, reason), signals=both)
    except KeyboardInterrupt:
        fail(f"interrupted; {_STAYS_CLOSED}", Exit.INTERRUPTED)
    if as_json:
        print_json({"drained": left.nothing, "in_flight": left.in_flight, "lanes_waiting": left.lanes})
    if left.nothing:
        if not as_json:
            typer.echo("drained: no task is in flight or waits in a lane; 'letta-bridge resume' opens the intake again")
        return
    what = f"{counted(left.in_flight, 'turn')} in flight and {counted(left.lanes, 'lane')} waiting"
    if left.held:
        what += (
            f" ({counted(left.held, 'user')} held: 'letta-bridge lanes' lists them; 'user release' or 'user drop' "
            "ends a hold)"
        )
    if not left.bridges:
        fail(f"{what}, and no bridge is alive to process them; start one; the intake stays closed", Exit.FAILED)
    fail(f"{what} after {timeout:g} s; the intake stays closed; run drain again, or resume", Exit.TIMEOUT)


async def _drained(client: RedisClient, settings: BridgeSettings, timeout: float, reason: str) -> _Left:
    admin = QueueAdmin(client, settings.queue)
    queue = RedisQueue(client, client, settings.queue, "drain")
    await admin.pause(PauseMode.INTAKE, reason)
    try:
        return await _waited(admin, queue, timeout)
    except CONNECTION_ERRORS:
        tell(_STAYS_CLOSED)
        raise


async def _waited(admin: QueueAdmin, queue: RedisQueue, timeout: float) -> _Left:
    until = asyncio.get_running_loop().time() + timeout
    shown: tuple[int, int] | None = None
    while True:
        in_flight, lanes = await admin.unfinished()
        status: QueueStatus = await queue.status()
        left = _Left(in_flight, lanes, status.bridges, status.held)
        if left.nothing or not left.bridges or asyncio.get_running_loop().time() >= until:
            return left
        if sys.stderr.isatty() and (in_flight, lanes) != shown:
            shown = (in_flight, lanes)
            tell(f"{in_flight} in flight, {lanes} lanes waiting, {status.waiting} tasks in them")
        await asyncio.sleep(_POLL_SECONDS)

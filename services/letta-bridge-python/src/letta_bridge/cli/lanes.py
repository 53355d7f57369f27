"""``letta-bridge lanes``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from letta_bridge.cli.common import ConfigOption, JsonOption, ask_redis, settings_or_exit
from letta_bridge.cli.output import duration, plain, print_json, print_table
from letta_bridge.request_queue.admin import Lane, Lanes, QueueAdmin
from letta_bridge.request_queue.holds import Hold, Holds
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import RedisClient
from shared_utils.text import counted

_COLUMNS = ("USER", "WAITING", "OLDEST", "IN FLIGHT", "ATTEMPT", "LEASE", "BRIDGE")


def lanes(
    limit: Annotated[int, typer.Option(help="Maximum number of users.", min=1, max=5000)] = 20,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the lanes: how many tasks wait and for how long, and which turns are in flight; the longest first.

    OLDEST is the time since the oldest task was taken from the request list, IN FLIGHT the time since the turn began.
    LEASE is the time after which another bridge takes over the turn, unless its bridge renews the lease. A user '~7'
    stands for tasks whose user id cannot be read. A held lane, by an operator or a running erasure, begins no turns.
    """
    settings = settings_or_exit(config)
    found, held = ask_redis(settings, lambda client: _look(client, settings, limit))
    if as_json:
        print_json(asdict(found) | {"held": [asdict(hold) for hold in held]})
        return
    if found.lanes:
        print_table(_COLUMNS, [_row(lane) for lane in found.lanes], numbers=("WAITING", "ATTEMPT"))
    for hold in held:
        typer.echo(
            f"held: {plain(hold.lane)} for {duration(hold.held_seconds)} ({plain(hold.why)}); ends in "
            f"{duration(hold.seconds_left)} unless it is renewed, or with 'letta-bridge user release'"
        )
    typer.echo(_summary(found))


async def _look(client: RedisClient, settings: BridgeSettings, limit: int) -> tuple[Lanes, list[Hold]]:
    return await QueueAdmin(client, settings.queue).lanes(limit), await Holds(
        client, Keys(settings.queue.requests)
    ).all()


def _row(lane: Lane) -> tuple[object, ...]:
    oldest = duration(lane.oldest_wait) if lane.waiting else "-"
    turn = lane.in_flight
    if turn is None:
        return (lane.lane, lane.waiting, oldest, "-", "-", "-", "-")
    lease = duration(turn.lease_left) if turn.lease_left > 0 else "overdue"
    return (lane.lane, lane.waiting, oldest, duration(turn.age), turn.attempts, lease, turn.bridge)


def _summary(found: Lanes) -> str:
    hidden = found.in_flight + found.ready - len(found.lanes)
    more = f"; {hidden} more not shown (--limit)" if hidden > 0 else ""
    return f"{counted(found.in_flight, 'user')} in flight, {found.ready} waiting for a bridge with free capacity{more}"

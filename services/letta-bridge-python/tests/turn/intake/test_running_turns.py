"""What becomes of a turn whose work ends without an outcome."""

from __future__ import annotations

import asyncio
from typing import Any

from letta_bridge.errors import OutOfResources
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import Turn
from letta_bridge.turn.intake.running_turns import RunningTurns
from letta_bridge.turn.lease import TurnLease


async def test_a_turn_without_resources_is_let_go() -> None:
    async def process(_turn: Turn, _lease: TurnLease) -> Any:
        raise OutOfResources("no memory")

    gone: asyncio.Queue[str] = asyncio.Queue()
    exhausted: list[tuple[str, bool]] = []
    running = RunningTurns(
        process,
        on_outcome=lambda *_: None,
        on_lease_lost=lambda _: None,
        on_exhausted=lambda turn, _, begun: exhausted.append((turn.receipt, begun)),
        on_gone=gone.put_nowait,
    )
    running.start(Turn("1-1", "ada", 1, 1, 1, b"{}"), TurnLease(30, clock()))
    assert await asyncio.wait_for(gone.get(), 10) == "1-1"
    assert (exhausted, len(running)) == ([("1-1", False)], 0)

"""What becomes of a turn whose work ends without an outcome."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from letta_bridge.errors import OutOfResources
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import Turn
from letta_bridge.turn.intake.running_turns import RunningTurns
from letta_bridge.turn.lease import TurnLease


async def test_a_turn_without_resources_is_let_go_and_logged():
    async def process(_turn, _lease):
        raise OutOfResources("no memory")

    gone: asyncio.Queue[str] = asyncio.Queue()
    outcomes, lost = [], []
    running = RunningTurns(
        process,
        on_outcome=lambda *outcome: outcomes.append(outcome),
        on_lease_lost=lost.append,
        on_gone=gone.put_nowait,
    )
    with capture_logs() as logged:
        running.start(Turn("1-1", "ada", 1, 1, 1, b"{}"), TurnLease(30, clock()))
        assert await asyncio.wait_for(gone.get(), 10) == "1-1"
    assert (lost, len(running)) == ([], 0)
    assert [(line["event"], line["receipt"]) for line in logged] == [("out_of_resources", "1-1")]

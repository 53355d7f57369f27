"""What a cancel leaves of a streamed turn on a real Letta: the bridge's promises stand on it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from letta_bridge.errors import LettaError, TurnCancelled
from letta_bridge.letta import AgentSpec, Block, SoughtTurn, ToolState, TurnMessage, TurnState
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.testing.turn_listener import Heard
from local_stack.letta import Letta
from local_stack.models import ScriptedModel

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]


@dataclass(frozen=True)
class Moment:
    """When a turn is cancelled, and what is stored of it then.

    Attributes:
        text: what the user says; the scripted model speaks as slowly as it asks for.
        reached: of what was heard until then.
        stored: types of the messages.
    """

    text: str
    reached: Callable[[Heard], object]
    stored: tuple[str, ...] = ()


MOMENTS = {
    "before the first token": Moment("[[latency:1500]] [[pace:50]] hello", lambda heard: heard.runs),
    "in the middle": Moment(f"[[pace:100]] {'word ' * 100}", lambda heard: len(heard.pieces) > 3),
    "within a tool call": Moment(
        "[[pace:100]] My name is Ada.", lambda heard: heard.tools == [("memory_insert", ToolState.CALLED)]
    ),
    "after a tool step": Moment(
        "[[pace:100]] My name is Ada.",
        lambda heard: ("memory_insert", ToolState.RETURNED) in heard.tools,
        ("user_message", "tool_call_message", "tool_return_message"),
    ),
    "after the last token": Moment(
        "[[pace:800]] ok",
        lambda heard: heard.messages and heard.messages[0] == "echo: ok",
        ("user_message", "assistant_message"),
    ),
}


@dataclass(frozen=True)
class Seen:
    """A Letta, and an agent of this test's own."""

    client: LettaClient
    server: httpx.AsyncClient
    model: httpx.AsyncClient
    agent_id: str

    def send(self, text: str, otid: str, heard: Heard) -> asyncio.Task[Any]:
        said = [TurnMessage("user", text, otid)]
        return asyncio.create_task(self.client.send(self.agent_id, said, timeout=60, listener=heard))

    async def stored(self) -> tuple[str, ...]:
        history = await self.client.history(self.agent_id)
        return tuple(str(message["message_type"]) for message in history if message.get("run_id"))

    async def status(self, run_id: str) -> str:
        return str((await self.server.get(f"/v1/runs/{run_id}")).raise_for_status().json()["status"])

    async def silence(self) -> None:
        """Wait until the model has no call in hand any more."""
        async with asyncio.timeout(60):
            while (await self.model.get("/control/calls", params={"last": 0})).json()["in_flight"]:
                await asyncio.sleep(0.1)


@pytest.fixture
async def seen(letta: Letta, scripted_model: ScriptedModel) -> AsyncIterator[Seen]:
    client = LettaClient(letta.url, api_key=letta.api_key)
    spec = AgentSpec(
        "cancelled", ("cancelled",), letta.model, None, "letta_v1_agent", (Block("human", ""),), ("memory_insert",)
    )
    agent_id = (await client.create_agent(spec)).agent_id
    headers = {"Authorization": f"Bearer {letta.api_key}"}
    async with (
        httpx.AsyncClient(base_url=letta.url, headers=headers, timeout=30) as server,
        httpx.AsyncClient(base_url=scripted_model.base_url) as model,
    ):
        yield Seen(client, server, model, agent_id)
    await client.delete_agent(agent_id)
    await client.close()


@pytest.mark.parametrize("name", MOMENTS)
async def test_what_a_cancel_leaves_is_final_when_the_stream_ends(seen: Seen, name: str) -> None:
    moment, otid, heard = MOMENTS[name], str(uuid.uuid4()), Heard()
    turn = seen.send(moment.text, otid, heard)
    await heard.until(moment.reached)
    await seen.client.cancel(seen.agent_id, heard.runs)
    with pytest.raises(TurnCancelled):
        await turn
    assert await seen.stored() == moment.stored
    assert await seen.status(heard.runs[0]) == "cancelled"
    await seen.silence()
    assert await seen.stored() == moment.stored, "Letta stored what the model said after the cancel"
    [found] = (await seen.client.find_turns(seen.agent_id, [SoughtTurn(otid, 0.0)])).turns
    assert found.state is (TurnState.STORED if moment.stored else TurnState.CANCELLED)
    assert (found.answer is None) == ("assistant_message" not in moment.stored)
    assert (await seen.send("still there?", str(uuid.uuid4()), Heard())).text


@pytest.mark.parametrize("name", ["before the first token", "in the middle", "after a tool step"])
async def test_a_client_that_leaves_after_its_cancel(seen: Seen, name: str) -> None:
    """Letta goes on with the stream until it sees the cancel, and stores no more than if the client had stayed."""
    moment, otid, heard = MOMENTS[name], str(uuid.uuid4()), Heard()
    turn = seen.send(moment.text, otid, heard)
    await heard.until(moment.reached)
    await seen.client.cancel(seen.agent_id, heard.runs)
    turn.cancel()
    with suppress(asyncio.CancelledError, LettaError):
        await turn
    await seen.silence()
    assert await seen.stored() == moment.stored
    assert await seen.status(heard.runs[0]) == "cancelled"


async def test_a_client_that_leaves_without_a_cancel_has_its_turn_stored(seen: Seen) -> None:
    otid, heard = str(uuid.uuid4()), Heard()
    turn = seen.send("[[pace:50]] one two three four", otid, heard)
    await heard.until(lambda heard: heard.pieces)
    turn.cancel()
    with suppress(asyncio.CancelledError):
        await turn
    async with asyncio.timeout(60):
        while await seen.status(heard.runs[0]) != "completed":
            await asyncio.sleep(0.1)
    assert await seen.stored() == ("user_message", "assistant_message")

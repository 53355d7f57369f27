"""The double keeps what the real Letta keeps."""

from __future__ import annotations

import asyncio

import pytest

from bridge_chaos.rig import Double
from letta_bridge.errors import AgentGone, TurnFateUnknown
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.port import AgentSpec, SoughtTurn, TurnMessage, TurnState

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("chaos")]


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    folder = tmp_path_factory.mktemp("double")
    double = Double(folder / "letta.db", logs=folder, name="letta", latency=0.05)
    double.start()
    double.wait_ready()
    yield double
    double.kill()


@pytest.fixture
async def letta(double):
    double.fail("", times=0)
    client = LettaClient(double.url)
    yield client
    await client.close()


@pytest.fixture
async def agent_id(letta):
    spec = AgentSpec(
        name="ada",
        tags=("bridge", "user:ada"),
        model="m",
        embedding=None,
        agent_type="letta_v1_agent",
        blocks=(),
        tools=(),
    )
    return (await letta.create_agent(spec)).agent_id


ONE, TWO = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
"""Two otids."""


def say(text, otid):
    return [TurnMessage("user", text, otid)]


async def find(letta, agent_id, otid):
    return (await letta.find_turns(agent_id, [SoughtTurn(otid, 0.0)])).turns[0]


async def test_a_turn_is_answered_and_found_again(letta, agent_id):
    answer = await letta.send(agent_id, say("你好", ONE), timeout=5)
    assert answer.text == "echo: 你好"
    found = await find(letta, agent_id, ONE)
    assert (found.state, found.answer.text) == (TurnState.STORED, "echo: 你好")
    assert (await find(letta, agent_id, TWO)).state is TurnState.ABSENT
    assert agent_id in [agent.agent_id for agent in await letta.find_agents(["user:ada"])]


async def test_a_turn_whose_client_left_goes_on(double, letta, agent_id):
    double.fail("hang", times=1, seconds=0.5)
    with pytest.raises(TurnFateUnknown):
        await letta.send(agent_id, say("你好", ONE), timeout=0.2)
    assert (await find(letta, agent_id, ONE)).state is TurnState.RUNNING
    async with asyncio.timeout(10):
        while (await find(letta, agent_id, ONE)).state is not TurnState.STORED:
            await asyncio.sleep(0.05)


async def test_a_cancelled_turn_goes_on_and_is_stored(double, letta, agent_id):
    double.fail("hang", times=1, seconds=0.5)
    with pytest.raises(TurnFateUnknown):
        await letta.send(agent_id, say("你好", ONE), timeout=0.2)
    running = await find(letta, agent_id, ONE)
    await letta.cancel(agent_id, running.run_ids)
    assert (await find(letta, agent_id, ONE)).state is TurnState.CANCELLED
    assert (await find(letta, agent_id, TWO)).state is TurnState.ABSENT
    async with asyncio.timeout(10):
        while (await find(letta, agent_id, ONE)).state is not TurnState.STORED:
            await asyncio.sleep(0.05)


async def test_a_refusal_after_a_tool_step_leaves_the_message_behind(double, letta, agent_id):
    double.fail("late_status", times=1, code=429)
    with pytest.raises(TurnFateUnknown):
        await letta.send(agent_id, say("你好", ONE), timeout=5)
    found = await find(letta, agent_id, ONE)
    assert (found.state, found.answer) == (TurnState.STORED, None)


async def test_a_killed_server_remembers_and_leaves_its_runs_active(double, letta, agent_id):
    await letta.send(agent_id, say("你好", ONE), timeout=5)
    double.fail("hang", times=1, seconds=30.0)
    sending = asyncio.create_task(letta.send(agent_id, say("再见", TWO), timeout=20))
    async with asyncio.timeout(10):
        while (await find(letta, agent_id, TWO)).state is not TurnState.RUNNING:
            await asyncio.sleep(0.02)
    double.kill()
    with pytest.raises(TurnFateUnknown):
        await sending
    double.start()
    await asyncio.to_thread(double.wait_ready)
    assert (await find(letta, agent_id, ONE)).state is TurnState.STORED
    assert (await find(letta, agent_id, TWO)).state is TurnState.RUNNING


async def test_a_deleted_agent_is_gone(letta, agent_id):
    assert await letta.delete_agent(agent_id)
    with pytest.raises(AgentGone):
        await letta.send(agent_id, say("你好", ONE), timeout=5)

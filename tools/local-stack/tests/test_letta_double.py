"""The double of Letta keeps what the real one keeps, and fails as it is told."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from letta_bridge.errors import AgentGone, LettaRejected, OutcomeUnknown
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.port import AgentSpec, FoundTurn, SoughtTurn, ToolState, TurnMessage, TurnState
from letta_bridge.testing.turn_listener import Heard
from local_stack.letta_double.process import LettaDouble
from local_stack.letta_double.server import Server
from local_stack.letta_double.store import LettaStore
from local_stack.letta_double.turns import Pace
from local_stack.serving import serving

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("letta-double")]


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LettaDouble]:
    folder = tmp_path_factory.mktemp("double")
    double = LettaDouble(folder / "letta.db", logs=folder, name="letta", latency=0.05)
    double.start()
    double.wait_ready()
    yield double
    double.kill()


@pytest.fixture
async def letta(double: LettaDouble) -> AsyncIterator[LettaClient]:
    double.heal()
    client = LettaClient(double.url)
    yield client
    await client.close()


def spec_of(user: str) -> AgentSpec:
    return AgentSpec(
        name=user,
        tags=("bridge", f"user:{user}"),
        model="openai/gpt-4o-mini",
        embedding=None,
        agent_type="letta_v1_agent",
        blocks=(),
        tools=(),
    )


@pytest.fixture
async def agent_id(letta: LettaClient) -> str:
    return (await letta.create_agent(spec_of("ada"))).agent_id


ONE, TWO = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
"""Two otids."""


def say(text: str, otid: str) -> list[TurnMessage]:
    return [TurnMessage("user", text, otid)]


async def find(letta: LettaClient, agent_id: str, otid: str) -> FoundTurn:
    return (await letta.find_turns(agent_id, [SoughtTurn(otid, 0.0)])).turns[0]


async def test_a_turn_is_answered_and_found_again(letta: LettaClient, agent_id: str) -> None:
    answer = await letta.send(agent_id, say("你好", ONE), timeout=5)
    assert answer.text == "echo: 你好"
    found = await find(letta, agent_id, ONE)
    assert found.answer is not None
    assert (found.state, found.answer.text) == (TurnState.STORED, "echo: 你好")
    assert (await find(letta, agent_id, TWO)).state is TurnState.ABSENT
    assert agent_id in [agent.agent_id for agent in await letta.find_agents(["user:ada"])]


async def test_turn_continues_after_its_client_disconnected(
    double: LettaDouble, letta: LettaClient, agent_id: str
) -> None:
    double.fail("hang", times=1, details={"seconds": 0.5})
    with pytest.raises(OutcomeUnknown):
        await letta.send(agent_id, say("你好", ONE), timeout=0.2)
    assert (await find(letta, agent_id, ONE)).state is TurnState.RUNNING
    async with asyncio.timeout(10):
        while (await find(letta, agent_id, ONE)).state is not TurnState.STORED:
            await asyncio.sleep(0.05)


async def test_a_cancelled_turn_continues_and_is_stored(double: LettaDouble, letta: LettaClient, agent_id: str) -> None:
    double.fail("hang", times=1, details={"seconds": 4.0})
    with pytest.raises(OutcomeUnknown):
        await letta.send(agent_id, say("你好", ONE), timeout=0.2)
    running = await find(letta, agent_id, ONE)
    await letta.cancel(agent_id, running.run_ids)
    assert (await find(letta, agent_id, ONE)).state is TurnState.CANCELLED
    assert (await find(letta, agent_id, TWO)).state is TurnState.ABSENT
    async with asyncio.timeout(10):
        while (await find(letta, agent_id, ONE)).state is not TurnState.STORED:
            await asyncio.sleep(0.05)


async def test_a_refusal_after_a_tool_step_leaves_the_message_behind(
    double: LettaDouble, letta: LettaClient, agent_id: str
) -> None:
    double.fail("late_status", times=1, details={"code": 429})
    with pytest.raises(OutcomeUnknown):
        await letta.send(agent_id, say("你好", ONE), timeout=5)
    found = await find(letta, agent_id, ONE)
    assert (found.state, found.answer) == (TurnState.STORED, None)


async def test_a_killed_server_remembers_and_leaves_its_runs_active(
    double: LettaDouble, letta: LettaClient, agent_id: str
) -> None:
    await letta.send(agent_id, say("你好", ONE), timeout=5)
    double.fail("hang", times=1, details={"seconds": 30.0})
    sending = asyncio.create_task(letta.send(agent_id, say("再见", TWO), timeout=20))
    async with asyncio.timeout(10):
        while (await find(letta, agent_id, TWO)).state is not TurnState.RUNNING:
            await asyncio.sleep(0.02)
    double.kill()
    with pytest.raises(OutcomeUnknown):
        await sending
    double.start()
    await asyncio.to_thread(double.wait_ready)
    assert (await find(letta, agent_id, ONE)).state is TurnState.STORED
    assert (await find(letta, agent_id, TWO)).state is TurnState.RUNNING


async def test_a_deleted_agent_is_gone(letta: LettaClient, agent_id: str) -> None:
    assert await letta.delete_agent(agent_id)
    with pytest.raises(AgentGone):
        await letta.send(agent_id, say("你好", ONE), timeout=5)


async def test_equal_otids_are_stored_twice(letta: LettaClient, agent_id: str) -> None:
    for text in ("一", "二"):
        await letta.send(agent_id, say(text, ONE), timeout=5)
    said = [entry["content"] for entry in await letta.history(agent_id) if entry["otid"] == ONE]
    assert said == ["一", "二"]


async def test_a_run_is_listed_late_and_its_turn_survives_a_cancel(
    double: LettaDouble, letta: LettaClient, agent_id: str
) -> None:
    double.fail("late_run", times=1, details={"seconds": 4.0})
    sending = asyncio.create_task(letta.send(agent_id, say("你好", ONE), timeout=60))
    await asyncio.sleep(0.3)
    assert (await find(letta, agent_id, ONE)).state is TurnState.ABSENT
    async with asyncio.timeout(30):
        while (found := await find(letta, agent_id, ONE)).state is not TurnState.RUNNING:
            await asyncio.sleep(0.02)
    await letta.cancel(agent_id, found.run_ids)
    assert (await find(letta, agent_id, ONE)).state is TurnState.CANCELLED
    assert (await sending).text == "echo: 你好"
    assert (await find(letta, agent_id, ONE)).state is TurnState.STORED


async def test_histories_and_agents_come_in_pages(letta: LettaClient, agent_id: str) -> None:
    for number in range(60):
        await letta.send(agent_id, say(str(number), f"o{number}"), timeout=5)
    history = await letta.history(agent_id)
    assert [entry["content"] for entry in history if entry["message_type"] == "user_message"] == [
        str(number) for number in range(60)
    ]
    made = [(await letta.create_agent(spec_of("bea"))).agent_id for _ in range(3)]
    assert [agent.agent_id for agent in await letta.find_agents(["user:bea"])] == made


@pytest.mark.parametrize("mode", ["cut-request", "cut-working", "cut-answer", "cut"])
async def test_a_connection_lost_while_an_agent_is_made(double: LettaDouble, letta: LettaClient, mode: str) -> None:
    double.fail(mode, operation="create", times=1, details={"seconds": 0.3})
    with pytest.raises(OutcomeUnknown):
        await letta.create_agent(spec_of(mode))
    found = len(await letta.find_agents([f"user:{mode}"]))
    assert found == (mode in {"cut-answer", "cut"})
    async with asyncio.timeout(5):
        while len(await letta.find_agents([f"user:{mode}"])) != (mode != "cut-request"):
            await asyncio.sleep(0.05)


async def test_making_an_agent_is_not_atomic(double: LettaDouble, letta: LettaClient) -> None:
    double.fail("orphan", operation="create", times=1, details={"code": 500})
    with pytest.raises(OutcomeUnknown):
        await letta.create_agent(spec_of("orphan"))
    assert len(await letta.find_agents(["user:orphan"])) == 1


async def test_a_held_turn_is_answered_when_the_hold_ends(
    double: LettaDouble, letta: LettaClient, agent_id: str
) -> None:
    double.fail("hold")
    sending = asyncio.create_task(letta.send(agent_id, say("你好", ONE), timeout=20))
    async with asyncio.timeout(10):
        while not double.seen()["at_work"]:
            await asyncio.sleep(0.02)
    double.heal()
    assert (await sending).text == "echo: 你好"
    assert (await letta.send(agent_id, say("又来", TWO), timeout=5)).text == "echo: 又来"


async def test_refusal_has_the_dialled_body_until_healed(
    double: LettaDouble, letta: LettaClient, agent_id: str
) -> None:
    body = {"error": {"type": "llm_authentication", "message": "no", "detail": "Incorrect API key provided"}}
    double.fail("status", details={"code": 401, "body": body})
    for _ in range(2):
        with pytest.raises(LettaRejected) as caught:
            await letta.send(agent_id, say("你好", ONE), timeout=5)
        assert caught.value.cause == "model_credentials"
    assert double.struck() == 2
    double.heal()
    assert (await letta.send(agent_id, say("你好", ONE), timeout=5)).text == "echo: 你好"


async def test_a_gathering_double_answers_when_enough_turns_are_at_work() -> None:
    server = Server(LettaStore(), Pace(gather=3))
    async with serving(server.app()) as url:
        letta = LettaClient(url)
        agents = [(await letta.create_agent(spec_of(f"u{number}"))).agent_id for number in range(3)]
        sending = [asyncio.create_task(letta.send(agent, say("你好", ONE), timeout=20)) for agent in agents[:2]]
        async with asyncio.timeout(10):
            while server.turns.at_work < 2:
                await asyncio.sleep(0.02)
        assert not any(turn.done() for turn in sending)
        await letta.send(agents[2], say("你好", ONE), timeout=20)
        await asyncio.gather(*sending)
        assert server.turns.most_at_work == 3
        await letta.close()


async def test_overlapping_turns_of_one_agent_are_counted(
    double: LettaDouble, letta: LettaClient, agent_id: str
) -> None:
    double.fail("hang", times=1, details={"seconds": 0.3})
    await asyncio.gather(*(letta.send(agent_id, say("你好", f"o{n}"), timeout=5) for n in range(2)))
    assert double.seen()["overlaps"] == [agent_id]


def test_servers_that_make_the_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    file = tmp_path / "letta.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE begun (by TEXT)")
    other.execute("BEGIN IMMEDIATE")
    released = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    released.start()
    store = LettaStore(file)
    assert store.agents(["bridge"]) == []
    store.close()
    released.join()
    other.close()


async def test_a_streamed_turn_with_a_tool(double: LettaDouble, letta: LettaClient, agent_id: str) -> None:
    double.fail("tool", times=1)
    heard = Heard()
    answer = await letta.send(agent_id, say("hello, 小明", ONE), timeout=5, listener=heard)
    assert (answer.text, heard.messages) == ("echo: hello, 小明", ["echo: hello, 小明"])
    assert answer.memory_updated
    assert [state for _, state in heard.tools] == [ToolState.CALLED, ToolState.RETURNED]
    assert (await find(letta, agent_id, ONE)).run_id == heard.runs[0]


@pytest.mark.parametrize(
    ("mode", "code", "cause"),
    [("status", 429, "rate_limited"), ("failed", 500, "server_error"), ("late_status", 429, "rate_limited")],
)
async def test_a_streamed_turn_that_fails(
    double: LettaDouble, letta: LettaClient, agent_id: str, mode: str, code: int, cause: str
) -> None:
    double.fail(mode, times=1, details={"code": code})
    with pytest.raises(OutcomeUnknown) as caught:
        await letta.send(agent_id, say("hello", ONE), timeout=5, listener=Heard())
    assert caught.value.cause == cause
    state = TurnState.STORED if mode == "late_status" else TurnState.ABSENT
    assert (await find(letta, agent_id, ONE)).state is state


@pytest.mark.parametrize("mode", ["cut", "cut-answer", "cut-working"])
async def test_a_streamed_turn_whose_connection_is_lost_is_stored(
    double: LettaDouble, letta: LettaClient, agent_id: str, mode: str
) -> None:
    double.fail(mode, times=1)
    heard = Heard()
    with pytest.raises(OutcomeUnknown) as caught:
        await letta.send(agent_id, say("hello, this is long enough", ONE), timeout=5, listener=heard)
    assert caught.value.cause == "connection_lost"
    assert bool(heard.pieces) == (mode == "cut-answer")
    async with asyncio.timeout(10):
        while (await find(letta, agent_id, ONE)).answer is None:
            await asyncio.sleep(0.02)

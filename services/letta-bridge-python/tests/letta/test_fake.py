"""What only the fake can do; what it shares with the real server is in test_port_contract.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from letta_bridge.errors import LettaRejected, LettaUnavailable, OutcomeUnknown
from letta_bridge.letta import AgentSpec, FoundTurn, SoughtTurn, TurnAnswer, TurnMessage, TurnState
from letta_bridge.testing.letta import InMemoryLetta, Stored

SPEC = AgentSpec("n", ("bridge",), "m", None, "letta_v1_agent", (), ())


@pytest.fixture
async def letta() -> AsyncIterator[InMemoryLetta]:
    fake = InMemoryLetta()
    yield fake
    await fake.close()


async def find(letta: InMemoryLetta, agent: str, otid: str) -> FoundTurn:
    return (await letta.find_turns(agent, [SoughtTurn(otid, 0.0)])).turns[0]


def turn(content: str = "hello", otid: str = "o1") -> list[TurnMessage]:
    return [TurnMessage("user", content, otid)]


async def test_faults_of_the_fake_are_used_one_a_call(letta: InMemoryLetta) -> None:
    agent = (await letta.create_agent(SPEC)).agent_id
    letta.fail_next(LettaUnavailable())
    letta.fail_next(LettaRejected())
    with pytest.raises(LettaUnavailable):
        await letta.send(agent, turn(), timeout=5)
    with pytest.raises(LettaRejected):
        await letta.send(agent, turn(), timeout=5)
    assert (await letta.send(agent, turn(), timeout=5)).text == "echo: hello"
    assert len(letta.sent) == 2


@pytest.mark.parametrize(
    ("stored", "state", "text"),
    [
        ("nothing", TurnState.ABSENT, None),
        ("message", TurnState.STORED, None),
        ("answer", TurnState.STORED, "echo: hello"),
    ],
)
async def test_how_far_a_failing_turn_got(
    letta: InMemoryLetta, stored: Stored, state: TurnState, text: str | None
) -> None:
    agent = (await letta.create_agent(SPEC)).agent_id
    letta.fail_next(OutcomeUnknown(), stored=stored)
    with pytest.raises(OutcomeUnknown):
        await letta.send(agent, turn(), timeout=5)
    found = await find(letta, agent, "o1")
    assert found.state is state
    assert (found.answer.text if found.answer else None) == text


async def test_a_held_turn_runs_on_after_its_caller_left(letta: InMemoryLetta) -> None:
    agent = (await letta.create_agent(SPEC)).agent_id
    with letta.held():
        with pytest.raises(OutcomeUnknown) as caught:
            await letta.send(agent, turn(), timeout=0.01)
        assert caught.value.cause == "timeout"
        running = await find(letta, agent, "o1")
        assert running.state is TurnState.RUNNING
        await letta.cancel(agent, running.run_ids)
        assert (await find(letta, agent, "o1")).state is TurnState.CANCELLED
    await letta.idle()
    assert (await find(letta, agent, "o1")).state is TurnState.STORED


async def test_the_fake_records_overlapping_turns_of_one_agent(letta: InMemoryLetta) -> None:
    one, two = [(await letta.create_agent(SPEC)).agent_id for _ in range(2)]
    await asyncio.gather(letta.send(one, turn(), timeout=5), letta.send(two, turn(), timeout=5))
    assert letta.overlaps == []
    with letta.held() as hold:
        turns = [asyncio.create_task(letta.send(one, turn(otid=o), timeout=5)) for o in ("a", "b")]
        await hold.arrived(2)
    await asyncio.gather(*turns)
    assert letta.overlaps == [one]


async def test_fake_leaves_an_active_run_behind(letta: InMemoryLetta) -> None:
    agent = (await letta.create_agent(SPEC)).agent_id
    run = letta.leave_run(agent, "o1")
    found = await find(letta, agent, "o1")
    assert (found.state, found.run_ids) == (TurnState.RUNNING, (run,))
    assert (await find(letta, agent, "o2")).state is TurnState.ABSENT
    await letta.cancel(agent, [run])
    assert (await find(letta, agent, "o1")).state is TurnState.CANCELLED


async def test_a_fake_that_is_down_is_unavailable(letta: InMemoryLetta) -> None:
    letta.down = True
    with pytest.raises(LettaUnavailable):
        await letta.health()


async def test_fake_uses_a_custom_answer() -> None:
    letta = InMemoryLetta(lambda agent, messages: TurnAnswer(messages[-1].content.upper(), memory_updated=True))
    agent = (await letta.create_agent(SPEC)).agent_id
    assert await letta.send(agent, turn(), timeout=5) == TurnAnswer("HELLO", memory_updated=True)


async def test_close_ends_turns_that_continue() -> None:
    letta = InMemoryLetta()
    agent = (await letta.create_agent(SPEC)).agent_id
    with letta.held():
        with pytest.raises(OutcomeUnknown):
            await letta.send(agent, turn(), timeout=0.01)
        await letta.close()
    assert letta.sent

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from bridge_bench import spoken
from bridge_bench.ceiling import own_time
from bridge_bench.runs import Bench
from letta_bridge.letta import SoughtTurn, TurnMessage, TurnState
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.port import AgentSpec
from letta_bridge.testing.turn_listener import Heard

AGENT = "agent-00000000-0000-0000-0000-000000000001"


@pytest.fixture
def stub(bench: Bench) -> Iterator[Any]:
    with bench.harness.stub(0.2, remember=True) as stub:
        yield stub


@pytest.fixture
async def letta(stub: Any) -> AsyncIterator[LettaClient]:
    client = LettaClient(stub.url)
    yield client
    await client.close()


async def test_the_bridges_own_client_understands_it(letta: LettaClient) -> None:
    answer = await letta.send(AGENT, [TurnMessage("user", "hello", "otid-1")], timeout=10)
    assert "tomatoes" in answer.text
    assert answer.stop_reason == "end_turn"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 671
    assert await letta.health() == "stub"


async def test_a_streamed_turn_has_the_same_answer(letta: LettaClient) -> None:
    heard = Heard()
    whole = await letta.send(AGENT, [TurnMessage("user", "hello", "otid-4")], timeout=10)
    streamed = await letta.send(AGENT, [TurnMessage("user", "hello", "otid-5")], timeout=10, listener=heard)
    assert streamed == whole
    assert heard.messages == [whole.text]
    assert len(heard.pieces) == len(whole.text.split())


async def test_a_streamed_turn_says_when_it_wrote_each_sentence_and_keeps_its_pace(bench: Bench) -> None:
    with bench.harness.stub(tokens_per_second=200) as stub:
        client = LettaClient(stub.url)
        answer = await client.send(AGENT, [TurnMessage("user", "hello", "otid-6")], timeout=10, listener=Heard())
        await client.close()
    sentences = answer.text.replace(". ", ".|").split("|")
    assert len(sentences) == spoken.SENTENCES
    times = [time for sentence in sentences for time in (spoken.began(sentence), spoken.ended(sentence))]
    assert times == sorted(times)
    assert 0.2 < times[-1] - times[0] < 10


async def test_a_caller_who_goes_away_ends_a_stream(bench: Bench) -> None:
    with bench.harness.stub(tokens_per_second=20) as stub:
        client = LettaClient(stub.url)
        heard = Heard()
        lost = asyncio.create_task(
            client.send(AGENT, [TurnMessage("user", "hello", "otid-7")], timeout=10, listener=heard)
        )
        while not heard.messages:
            await asyncio.sleep(0.01)
        lost.cancel()
        while stub.stats()["in_flight"]:
            await asyncio.sleep(0.01)
        await client.close()


async def test_a_turn_can_be_found_although_its_caller_went_away(letta: LettaClient, stub: Any) -> None:
    lost = asyncio.create_task(letta.send(AGENT, [TurnMessage("user", "hello", "otid-2")], timeout=10))
    while not stub.stats()["in_flight"]:
        await asyncio.sleep(0.01)
    lost.cancel()
    while stub.stats()["in_flight"]:
        await asyncio.sleep(0.01)
    sought = [SoughtTurn(otid, 0.0) for otid in ("otid-2", "otid-3")]
    found, absent = (await letta.find_turns(AGENT, sought)).turns
    assert found.state is TurnState.STORED
    assert found.answer is not None
    assert "tomatoes" in found.answer.text
    assert absent.state is TurnState.ABSENT


async def test_agents_are_made_and_found_by_their_tags(letta: LettaClient) -> None:
    spec = AgentSpec("ada", ("bridge", "user:ada"), "m", None, "letta_v1_agent", blocks=(), tools=())
    made = await letta.create_agent(spec)
    assert [agent.agent_id for agent in await letta.find_agents(("user:ada",))] == [made.agent_id]
    assert await letta.find_agents(("user:eve",)) == []


def test_an_answer_has_about_1_kb_and_its_latency(stub: Any) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x", "otid": "o"}]})
    response = httpx.post(f"{stub.url}/v1/agents/{AGENT}/messages", content=body)
    assert 900 < len(response.content) < 1300
    assert response.elapsed.total_seconds() >= 0.2


def test_its_own_time_is_its_latency_and_little_else(bench: Bench) -> None:
    with bench.harness.stub(0.02) as stub:
        assert 0.02 <= own_time(stub) < 0.2

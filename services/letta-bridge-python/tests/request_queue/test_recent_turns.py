"""The figures of the last ten minutes, in both queues."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.request_queue import Outcome, Settlement
from letta_bridge.request_queue.recent_turns import RecentTurns
from letta_bridge.request_queue.redis_queue import RedisQueue
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.request_queue import InMemoryQueue

if TYPE_CHECKING:
    from letta_bridge_tests.request_queue.conftest import InMemoryRig, RedisRig

FELL_BACK = ("memory", "fallback", "cause:model_credentials", "canned")


@pytest.fixture
async def redis_queue(redis_url: str, redis_rig: Any) -> AsyncIterator[Any]:
    rig = redis_rig(QueueSettings(requests=f"q-{uuid.uuid4().hex[:8]}"), redis_url)
    yield rig
    await rig.close()


async def settled(
    rig: InMemoryRig | RedisRig, queue: RedisQueue | InMemoryQueue, number: int, tally: tuple[Any, ...]
) -> Settlement:
    """Take a task of a user of its own, and settle it."""
    user, task_id = f"user{number}", f"t{number}"
    await rig.push(json.dumps({"task_id": task_id, "user_id": user, "content": "hi"}).encode())
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    end = Settlement(turn.receipt, Outcome.LETTA, user_id=user, task_id=task_id, reply=b"{}", tally=tally)
    assert (await queue.settle_and_fetch([end], 0)).settled == [True]
    return end


async def test_recent_outcomes_are_summed_over_bridges(rig: RedisRig) -> None:
    bridges = [rig.bridge("a"), rig.bridge("b")]
    assert (await bridges[0].recent()).for_agents == 0
    for number, tally in enumerate([("agent",), FELL_BACK, ("unanswered", "cause:timeout"), (), FELL_BACK]):
        await settled(rig, bridges[number % 2], number, tally)
    recent = await bridges[0].recent()
    assert recent == (await bridges[1].status()).recent
    assert recent == RecentTurns(
        by_agent=1, by_memory=2, fell_back=2, unanswered=1, canned=2, causes={"model_credentials": 2, "timeout": 1}
    )


async def test_a_settlement_that_is_repeated_is_tallied_once(rig: InMemoryRig | RedisRig) -> None:
    queue = rig.bridge("a")
    end = await settled(rig, queue, 1, ("agent",))
    assert (await queue.settle_and_fetch([end], 0)).settled == [False]
    assert (await queue.recent()).by_agent == 1


@pytest.mark.integration
async def test_tallies_are_of_ten_minutes_and_expire(redis_queue: RedisRig) -> None:
    queue, client = redis_queue.bridge("a"), redis_queue.client
    minute = (await client.time())[0] // 60
    for past in (3, 11):
        await client.hset(queue.keys.tally(minute - past), "agent", 1)
    await settled(redis_queue, queue, 1, ("memory",))
    recent = await queue.recent()
    assert (recent.by_agent, recent.by_memory) == (1, 1)
    written = [
        key async for key in client.scan_iter(f"{queue.keys.tally_prefix}*") if await client.hexists(key, "memory")
    ]
    assert [0 < await client.ttl(key) <= 900 for key in written] == [True]


@pytest.mark.integration
async def test_a_tally_of_the_wrong_type_does_not_hold_up_an_answer(redis_queue: RedisRig) -> None:
    queue, client = redis_queue.bridge("a"), redis_queue.client
    minute = (await client.time())[0] // 60
    for ahead in range(3):
        await client.set(queue.keys.tally(minute + ahead), "x")
    await settled(redis_queue, queue, 1, ("agent",))
    assert (await queue.recent()).for_agents == 0


@pytest.mark.parametrize(
    ("tally", "in_trouble", "says"),
    [
        ({}, False, "no agent was asked"),
        ({"memory": 5, "canned": 5}, False, "no agent was asked"),
        ({"agent": 9}, False, "agents answered all 9 turns"),
        ({"agent": 9, "fallback": 1, "cause:timeout": 1}, False, "1 of 10 turns in the last 10 minutes (10%), mostly"),
        ({"agent": 4, "fallback": 1, "cause:timeout": 1}, True, "1 of 5 turns"),
        (
            {"fallback": 2, "canned": 2, "cause:timeout": 1, "cause:model_credentials": 2},
            True,
            "mostly because the provider refuses the key of Letta's model (model_credentials)",
        ),
        ({"unanswered": 1, "cause:breaker_open": 1}, True, "error replies: 1"),
        ({"fallback": 1, "cause:of a later release": 1}, True, "mostly because of a later release"),
        (
            {"agent": 1, "turned_away": 480, "guard:user_queue_full": 480},
            False,
            "refused by limits: 480, mostly user_queue_full",
        ),
    ],
)
def test_the_figures_are_reported_to_people(tally: dict[str, Any], in_trouble: bool, says: str) -> None:
    recent = RecentTurns.of(tally)
    assert (recent.in_trouble, says in str(recent)) == (in_trouble, True)


def test_sentence_has_a_remedy_only_if_an_operator_should_act() -> None:
    fine = RecentTurns.of({"agent": 9})
    assert fine.sentence == str(fine)
    expired = RecentTurns.of({"fallback": 2, "cause:model_credentials": 2})
    assert expired.sentence.startswith(f"{expired}; give Letta a valid key of its model's provider (OPENAI_API_KEY)")

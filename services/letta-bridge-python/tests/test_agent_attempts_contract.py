"""One suite, two kinds of marks: in a real Redis, and in memory."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from letta_bridge import agent_attempts
from letta_bridge.agent_attempts import Attempt, InMemoryAgentAttempts, RedisAgentAttempts
from letta_bridge.request_queue.keys import Keys
from shared_utils.redis_connection import connect
from shared_utils.settings import RedisSettings

FIRST = Attempt("ada:x%", "default", "first")
SECOND = Attempt("ada:x%", "default", "second")


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def attempts(request):
    if request.param == "memory":
        yield InMemoryAgentAttempts()
        return
    client = connect(RedisSettings(url=request.getfixturevalue("redis_url")), name="test")
    yield RedisAgentAttempts(client, Keys(f"q-{uuid.uuid4().hex[:8]}"))
    await client.aclose()


async def test_while_one_attempt_is_marked_no_other_begins(attempts):
    assert await attempts.begin(FIRST)
    assert not await attempts.begin(SECOND)
    await attempts.end(FIRST)
    assert await attempts.begin(SECOND)


async def test_beginning_twice_after_a_lost_answer_counts_once(attempts):
    assert await attempts.begin(FIRST)
    assert await attempts.begin(FIRST)
    assert not await attempts.begin(SECOND)


@pytest.mark.parametrize("other", [Attempt("ada", "x%:default", "o"), Attempt("ada:x%", "coach", "o")])
async def test_users_and_personas_have_marks_of_their_own(attempts, other):
    assert await attempts.begin(FIRST)
    assert await attempts.begin(other)


async def test_only_whoever_began_ends_or_doubts(attempts):
    assert await attempts.begin(FIRST)
    await attempts.end(SECOND)
    await attempts.doubt(SECOND)
    assert not await attempts.begin(SECOND)


async def test_a_doubtful_attempt_keeps_others_waiting_until_its_agent_had_time_to_show(attempts, monkeypatch):
    monkeypatch.setattr(agent_attempts, "SHOWS_WITHIN_SECONDS", 0.2)
    assert await attempts.begin(FIRST)
    await attempts.doubt(FIRST)
    assert not await attempts.begin(SECOND)
    async with asyncio.timeout(10):
        while not await attempts.begin(SECOND):
            await asyncio.sleep(0.02)
    await attempts.end(FIRST)
    assert not await attempts.begin(Attempt(FIRST.user_id, FIRST.persona, "third"))


async def test_an_attempt_of_a_killed_bridge_ends_by_itself(attempts, monkeypatch):
    monkeypatch.setattr(agent_attempts, "ATTEMPT_SECONDS", 0.2)
    assert await attempts.begin(FIRST)
    async with asyncio.timeout(10):
        while not await attempts.begin(SECOND):
            await asyncio.sleep(0.02)

"""One suite, two shared copies: the hash on a real Redis, and the in-memory model of it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from letta_bridge.consent import InMemorySharedChoices, RedisChoices, Sighting
from letta_bridge.consent.shared_choices import entered
from letta_bridge.request_queue import RedisQueue
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.memory_queue import InMemoryQueue, Shelf
from letta_bridge.settings import QueueSettings
from shared_utils.persistence.choices import Choice, user_key
from shared_utils.redis_connection import connect
from shared_utils.settings import RedisSettings

ADA = user_key("ada")


class InMemoryRig:
    """The model, and a queue whose hand-outs bring it along."""

    def __init__(self, requests):
        self.shelf = Shelf(clock=time.time)
        self.choices = InMemorySharedChoices(self.shelf.choices, time.time)
        self.queue = InMemoryQueue(self.shelf, QueueSettings(requests=requests), "bridge")

    async def set(self, field, value):
        self.shelf.choices[field] = value

    async def lose(self):
        self.shelf.choices.clear()

    async def snapshot(self):
        return dict(self.shelf.choices)

    async def roll_back(self, snapshot):
        self.shelf.choices.clear()
        self.shelf.choices |= snapshot

    async def push(self, payload):
        self.shelf.push(payload)

    async def close(self):
        pass


class RedisRig:
    """The same on a real server."""

    def __init__(self, requests, url):
        connection = RedisSettings(url=url)
        self.client = connect(connection, name="test")
        self.key = Keys(requests).choices
        self.requests = requests
        self.choices = RedisChoices(self.client, Keys(requests))
        self.queue = RedisQueue(self.client, self.client, QueueSettings(requests=requests), "bridge")

    async def set(self, field, value):
        await self.client.hset(self.key, field, value)

    async def lose(self):
        await self.client.delete(self.key)

    async def snapshot(self):
        return await self.client.hgetall(self.key)

    async def roll_back(self, snapshot):
        await self.client.delete(self.key)
        await self.client.hset(self.key, mapping=snapshot)

    async def push(self, payload):
        await self.client.lpush(self.requests, payload)

    async def close(self):
        await self.client.aclose()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def rig(request):
    requests = f"q-{uuid.uuid4().hex[:8]}"
    if request.param == "memory":
        rig = InMemoryRig(requests)
    else:
        rig = RedisRig(requests, request.getfixturevalue("redis_url"))
    yield rig
    await rig.close()


async def kept(rig):
    return {choice.user_key: choice async for choice in rig.choices.entries()}


async def entry(rig, user="ada"):
    return entered(user_key(user), (await rig.choices.read(user)).entry)


async def test_an_empty_copy_vouches_for_nothing(rig):
    assert await rig.choices.sighting() == Sighting(complete=False, born="", changes=0)
    assert await entry(rig) is None
    assert await kept(rig) == {}


async def test_a_choice_gets_a_time_and_is_read_by_its_user(rig):
    before = time.time() * 1000 - 5000
    chosen = await rig.choices.choose(Choice(ADA, False, 0))
    assert before < chosen.chosen_ms < before + 60_000
    assert await entry(rig) == chosen
    assert await entry(rig, "bo") is None
    assert await kept(rig) == {ADA: chosen}
    seen = await rig.choices.sighting()
    assert (seen.complete, seen.changes) == (False, 1)
    assert seen.born


async def test_a_choice_is_later_than_every_one_known_before(rig):
    first = await rig.choices.choose(Choice(ADA, False, 0))
    second = await rig.choices.choose(Choice(ADA, True, 0))
    third = await rig.choices.choose(Choice(ADA, False, second.chosen_ms + 10**9))
    fourth = await rig.choices.choose(Choice(ADA, True, 0))
    assert first.chosen_ms < second.chosen_ms < third.chosen_ms < fourth.chosen_ms
    assert third.chosen_ms == second.chosen_ms + 10**9 + 1
    assert await entry(rig) == fourth


async def test_dating_a_choice_enters_nothing(rig):
    first = await rig.choices.choose(Choice(ADA, False, 0))
    dated = await rig.choices.date(Choice(ADA, True, 0))
    assert dated.chosen_ms > first.chosen_ms
    assert await entry(rig) == first


async def test_learning_keeps_the_winner(rig):
    await rig.choices.learn([Choice(ADA, True, 5), Choice(user_key("bo"), False, 3)])
    await rig.choices.learn([Choice(ADA, True, 4), Choice(ADA, False, 4)])
    assert await entry(rig) == Choice(ADA, True, 5)
    await rig.choices.learn([Choice(ADA, False, 5)])
    await rig.choices.learn([Choice(ADA, True, 5)])
    assert await entry(rig) == Choice(ADA, False, 5)
    await rig.choices.learn([Choice(ADA, True, 6)])
    assert await entry(rig) == Choice(ADA, True, 6)
    assert (await kept(rig))[user_key("bo")] == Choice(user_key("bo"), False, 3)


async def test_learning_what_is_known_is_no_change(rig):
    first = await rig.choices.learn([Choice(ADA, True, 5)])
    assert await rig.choices.learn([Choice(ADA, True, 5), Choice(ADA, False, 4)]) == first


async def test_a_copy_is_complete_once_vouched_for_until_it_is_doubted(rig):
    seen = await rig.choices.learn([Choice(ADA, False, 5)])
    assert await rig.choices.vouch(seen)
    assert (await rig.choices.sighting()).complete
    await rig.choices.choose(Choice(ADA, True, 0))
    assert (await rig.choices.sighting()).complete
    await rig.choices.doubt()
    assert not (await rig.choices.sighting()).complete
    assert await entry(rig) is not None


async def test_nobody_vouches_for_a_copy_that_was_lost_meanwhile(rig):
    seen = await rig.choices.learn([Choice(ADA, False, 5)])
    await rig.lose()
    assert not await rig.choices.vouch(seen)
    await rig.choices.learn([Choice(user_key("bo"), False, 5)] * 3)
    assert not await rig.choices.vouch(seen)


async def test_nobody_vouches_for_a_copy_that_forgot_its_last_writes(rig):
    await rig.choices.learn([Choice(user_key("bo"), True, 5)])
    replica = await rig.snapshot()
    seen = await rig.choices.learn([Choice(ADA, False, 5)])
    await rig.roll_back(replica)
    assert not await rig.choices.vouch(seen)
    assert not (await rig.choices.sighting()).follows(seen)


@pytest.mark.parametrize("damaged", [b"", b"2 5", b"yes", b"1", b"1 soon", b"\xff"])
async def test_an_entry_that_cannot_be_read_refuses_until_somebody_chooses_anew(rig, damaged):
    await rig.set(ADA, damaged)
    assert (await entry(rig)).permanent_memory is False
    await rig.choices.learn([Choice(ADA, True, 2**50)])
    assert (await entry(rig)).permanent_memory is False
    assert await kept(rig) == {}
    chosen = await rig.choices.choose(Choice(ADA, True, 0))
    assert await entry(rig) == chosen
    await rig.set(ADA, damaged)
    await rig.choices.learn([chosen], chosen=True)
    assert await entry(rig) == chosen


async def test_a_count_of_changes_that_cannot_be_read_makes_it_another_copy(rig):
    await rig.choices.learn([Choice(ADA, False, 5)])
    seen = await rig.choices.sighting()
    await rig.choices.vouch(seen)
    await rig.set("changes", b"many")
    assert not (await rig.choices.sighting()).complete
    await rig.choices.choose(Choice(user_key("bo"), False, 0))
    after = await rig.choices.sighting()
    assert (after.complete, after.changes) == (False, 1)
    assert after.born != seen.born
    assert (await entry(rig)).permanent_memory is False


async def test_an_entry_of_a_later_release_is_read_by_its_beginning(rig):
    await rig.set(ADA, b"1 17 some more")
    assert await entry(rig) == Choice(ADA, True, 17)


async def test_a_hand_out_brings_the_choice_of_its_user(rig):
    refused = await rig.choices.choose(Choice(ADA, False, 0))
    await rig.choices.vouch(await rig.choices.sighting())
    for user in ("ada", 7, None, "小明"):
        await rig.push(json.dumps({"task_id": "t", "user_id": user, "content": "hi"}).encode())
    turns = {turn.choice.user_id: turn.choice for turn in (await rig.queue.exchange([], 9)).turns}
    assert set(turns) == {"ada", "7", "anonymous", "小明"}
    assert entered(ADA, turns["ada"].entry) == refused
    assert turns["小明"].entry is None
    for choice in turns.values():
        assert Sighting.of(choice.complete, choice.born, choice.changes) == await rig.choices.sighting()
    read = await rig.choices.read("ada")
    assert (read.user_id, read.entry) == ("ada", turns["ada"].entry)


@pytest.mark.parametrize("payload", [b"nonsense", b'{"user_id": ["ada"]}', b'{"user_id": "a\\u0000b"}'])
async def test_a_hand_out_whose_user_cannot_be_read_brings_no_choice(rig, payload):
    await rig.push(payload)
    (turn,) = (await rig.queue.exchange([], 1)).turns
    assert turn.choice is None


async def test_concurrent_choices_of_one_user_have_different_times(rig):
    chosen = await asyncio.gather(*(rig.choices.choose(Choice(ADA, n % 2 == 0, 0)) for n in range(20)))
    assert len({choice.chosen_ms for choice in chosen}) == 20
    assert await entry(rig) == max(chosen, key=lambda choice: choice.chosen_ms)


@pytest.mark.integration
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["choose", "date", "learn", "vouch", "doubt"]),
            st.sampled_from(["ada", "bo"]),
            st.booleans(),
            st.integers(0, 6).map(lambda n: 2**43 + n),
        ),
        max_size=12,
    )
)
async def test_the_model_does_what_the_scripts_do(redis_url, steps):
    requests = f"q-{uuid.uuid4().hex[:8]}"
    model, real = InMemoryRig(requests), RedisRig(requests, redis_url)
    try:
        for verb, user, permanent_memory, chosen_ms in steps:
            choice = Choice(user_key(user), permanent_memory, chosen_ms)
            outcomes = []
            for rig in (model, real):
                if verb in {"choose", "date"}:
                    outcomes.append(await getattr(rig.choices, verb)(choice))
                elif verb == "learn":
                    seen = await rig.choices.learn([choice])
                    outcomes.append((seen.complete, seen.changes))
                elif verb == "vouch":
                    outcomes.append(await rig.choices.vouch(await rig.choices.sighting()))
                else:
                    outcomes.append(await rig.choices.doubt())
            assert outcomes[0] == outcomes[1], verb
        assert await kept(model) == await kept(real)
        assert (await model.choices.sighting()).complete == (await real.choices.sighting()).complete
    finally:
        await real.lose()
        await real.close()

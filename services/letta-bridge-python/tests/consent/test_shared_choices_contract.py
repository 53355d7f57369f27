"""One contract, two adapters of the shared replica: a hash in a real Redis, and its in-memory model."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from letta_bridge.consent import RedisChoices, ReplicaState
from letta_bridge.consent.shared_choices import applies_to, strict_entry
from letta_bridge.request_queue import RedisQueue
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.port import Outcome, Settlement
from letta_bridge.settings import QueueSettings
from letta_bridge.testing.queue_state import InMemoryQueueState
from letta_bridge.testing.request_queue import InMemoryQueue
from letta_bridge.testing.shared_choices import InMemorySharedChoices
from shared_utils.config.settings import RedisSettings
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.redis.connection import connect

ADA = user_key("ada")


class InMemoryRig:
    """The model, and an in-memory queue whose hand-outs include it."""

    def __init__(self, requests: str) -> None:
        self.shelf = InMemoryQueueState(clock=time.time)
        self.choices = InMemorySharedChoices(
            self.shelf.choices, time.time, self.shelf.order, lambda: len(self.shelf.requests)
        )
        self.queue = InMemoryQueue(self.shelf, QueueSettings(requests=requests), "bridge")

    async def set(self, field: str, value: bytes) -> None:
        self.shelf.choices[field] = value

    async def lose(self) -> None:
        self.shelf.choices.clear()

    async def snapshot(self) -> dict[str, bytes]:
        return dict(self.shelf.choices)

    async def roll_back(self, snapshot: Any) -> None:
        self.shelf.choices.clear()
        self.shelf.choices |= snapshot

    async def push(self, payload: bytes) -> None:
        self.shelf.push(payload)

    async def close(self) -> None:
        pass


class RedisRig:
    """The same on a real server."""

    def __init__(self, requests: str, url: str) -> None:
        connection = RedisSettings(url=url)
        self.client = connect(connection, name="test")
        self.key = Keys(requests).choices
        self.requests = requests
        self.choices = RedisChoices(self.client, Keys(requests))
        self.queue = RedisQueue(self.client, self.client, QueueSettings(requests=requests), "bridge")

    async def set(self, field: str, value: bytes) -> None:
        await self.client.hset(self.key, field, value)

    async def lose(self) -> None:
        await self.client.delete(self.key)

    async def snapshot(self) -> Any:
        return await self.client.hgetall(self.key)

    async def roll_back(self, snapshot: Any) -> None:
        await self.client.delete(self.key)
        await self.client.hset(self.key, mapping=snapshot)

    async def push(self, payload: bytes) -> None:
        await self.client.lpush(self.requests, payload)

    async def close(self) -> None:
        await self.client.aclose()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    requests = f"q-{uuid.uuid4().hex[:8]}"
    rig: Any
    if request.param == "memory":
        rig = InMemoryRig(requests)
    else:
        rig = RedisRig(requests, request.getfixturevalue("redis_url"))
    yield rig
    await rig.close()


async def kept(rig: InMemoryRig | RedisRig) -> dict[str, Any]:
    return {choice.user_key: choice async for choice in rig.choices.entries()}


async def entry(rig: InMemoryRig | RedisRig, user: str = "ada") -> Any:
    return strict_entry(user_key(user), (await rig.choices.read(user)).entry)


async def test_empty_replica_is_not_complete(rig: InMemoryRig | RedisRig) -> None:
    assert await rig.choices.state() == ReplicaState(complete=False, generation="", changes=0)
    assert await entry(rig) is None
    assert await kept(rig) == {}


async def test_choice_is_timestamped_and_read_by_its_user(rig: InMemoryRig | RedisRig) -> None:
    before = time.time() * 1000 - 5000
    chosen = await rig.choices.choose(Choice(ADA, False, 0))
    assert before < chosen.chosen_ms < before + 60_000
    assert await entry(rig) == chosen
    assert await entry(rig, "bo") is None
    assert await kept(rig) == {ADA: chosen}
    seen = await rig.choices.state()
    assert (seen.complete, seen.changes) == (False, 1)
    assert seen.generation


async def test_choice_is_later_than_every_known_one(rig: InMemoryRig | RedisRig) -> None:
    first = await rig.choices.choose(Choice(ADA, False, 0))
    second = await rig.choices.choose(Choice(ADA, True, 0))
    third = await rig.choices.choose(Choice(ADA, False, second.chosen_ms + 10**9))
    fourth = await rig.choices.choose(Choice(ADA, True, 0))
    assert first.chosen_ms < second.chosen_ms < third.chosen_ms < fourth.chosen_ms
    assert third.chosen_ms == second.chosen_ms + 10**9 + 1
    assert await entry(rig) == fourth


async def test_timestamping_a_choice_stores_nothing(rig: InMemoryRig | RedisRig) -> None:
    first = await rig.choices.choose(Choice(ADA, False, 0))
    timestamped = await rig.choices.timestamped(Choice(ADA, True, 0))
    assert timestamped.chosen_ms > first.chosen_ms
    assert await entry(rig) == first


async def test_merge_keeps_the_winner(rig: InMemoryRig | RedisRig) -> None:
    await rig.choices.merge([Choice(ADA, True, 5), Choice(user_key("bo"), False, 3)])
    await rig.choices.merge([Choice(ADA, True, 4), Choice(ADA, False, 4)])
    assert await entry(rig) == Choice(ADA, True, 5)
    await rig.choices.merge([Choice(ADA, False, 5)])
    await rig.choices.merge([Choice(ADA, True, 5)])
    assert await entry(rig) == Choice(ADA, False, 5)
    await rig.choices.merge([Choice(ADA, True, 6)])
    assert await entry(rig) == Choice(ADA, True, 6)
    assert (await kept(rig))[user_key("bo")] == Choice(user_key("bo"), False, 3)


async def test_merge_of_known_choices_is_no_change(rig: InMemoryRig | RedisRig) -> None:
    first = await rig.choices.merge([Choice(ADA, True, 5)])
    assert await rig.choices.merge([Choice(ADA, True, 5), Choice(ADA, False, 4)]) == first


async def test_new_generation_is_not_complete_and_keeps_every_entry(rig: InMemoryRig | RedisRig) -> None:
    await rig.choices.choose(Choice(ADA, False, 0))
    before = await rig.choices.state()
    assert await rig.choices.mark_complete(before)
    await rig.choices.begin_generation()
    after = await rig.choices.state()
    assert (after.complete, after.changes) == (False, before.changes)
    assert after.generation not in {before.generation, ""}
    assert [choice.user_key async for choice in rig.choices.entries()] == [ADA]
    assert not await rig.choices.mark_complete(before)


async def test_replica_is_complete_from_mark_complete_to_mark_incomplete(rig: InMemoryRig | RedisRig) -> None:
    seen = await rig.choices.merge([Choice(ADA, False, 5)])
    assert await rig.choices.mark_complete(seen)
    assert (await rig.choices.state()).complete
    await rig.choices.choose(Choice(ADA, True, 0))
    assert (await rig.choices.state()).complete
    await rig.choices.mark_incomplete()
    assert not (await rig.choices.state()).complete
    assert await entry(rig) is not None


async def test_mark_complete_refuses_a_replica_lost_meanwhile(rig: InMemoryRig | RedisRig) -> None:
    seen = await rig.choices.merge([Choice(ADA, False, 5)])
    await rig.lose()
    assert not await rig.choices.mark_complete(seen)
    await rig.choices.merge([Choice(user_key("bo"), False, 5)] * 3)
    assert not await rig.choices.mark_complete(seen)


async def test_mark_complete_refuses_a_replica_rolled_back_meanwhile(rig: Any) -> None:
    await rig.choices.merge([Choice(user_key("bo"), True, 5)])
    replica = await rig.snapshot()
    seen = await rig.choices.merge([Choice(ADA, False, 5)])
    await rig.roll_back(replica)
    assert not await rig.choices.mark_complete(seen)
    assert not (await rig.choices.state()).follows(seen)


@pytest.mark.parametrize("damaged", [b"", b"2 5", b"yes", b"1", b"1 soon", b"\xff"])
async def test_unreadable_entry_is_an_opt_out_until_the_next_choice(rig: Any, damaged: bytes) -> None:
    await rig.set(ADA, damaged)
    assert (await entry(rig)).permanent_memory is False
    await rig.choices.merge([Choice(ADA, True, 2**50)])
    assert (await entry(rig)).permanent_memory is False
    assert await kept(rig) == {}
    chosen = await rig.choices.choose(Choice(ADA, True, 0))
    assert await entry(rig) == chosen
    await rig.set(ADA, damaged)
    await rig.choices.merge([chosen], chosen=True)
    assert await entry(rig) == chosen


async def test_unreadable_change_count_starts_a_new_generation(rig: Any) -> None:
    await rig.choices.merge([Choice(ADA, False, 5)])
    seen = await rig.choices.state()
    await rig.choices.mark_complete(seen)
    await rig.set("changes", b"many")
    assert not (await rig.choices.state()).complete
    await rig.choices.choose(Choice(user_key("bo"), False, 0))
    after = await rig.choices.state()
    assert (after.complete, after.changes) == (False, 1)
    assert after.generation != seen.generation
    assert (await entry(rig)).permanent_memory is False


async def test_entry_of_a_later_release_is_read_by_its_first_fields(rig: InMemoryRig | RedisRig) -> None:
    await rig.set(ADA, b"1 17 some more")
    assert await entry(rig) == Choice(ADA, True, 17)


async def test_hand_out_includes_the_choice_of_its_user(rig: Any) -> None:
    opt_out = await rig.choices.choose(Choice(ADA, False, 0))
    await rig.choices.mark_complete(await rig.choices.state())
    for user in ("ada", 7, None, "小明"):
        await rig.push(json.dumps({"task_id": "t", "user_id": user, "content": "hi"}).encode())
    turns = {turn.choice.user_id: turn.choice for turn in (await rig.queue.settle_and_fetch([], 9)).turns}
    assert set(turns) == {"ada", "7", "anonymous", "小明"}
    assert strict_entry(ADA, turns["ada"].entry) == opt_out
    assert turns["小明"].entry is None
    for choice in turns.values():
        assert ReplicaState.of(choice.complete, choice.generation, choice.changes) == await rig.choices.state()
    read = await rig.choices.read("ada")
    assert (read.user_id, read.entry) == ("ada", turns["ada"].entry)


async def choose_in_private(rig: InMemoryRig | RedisRig, user: str = "ada") -> None:
    await rig.choices.merge([await rig.choices.timestamped(Choice(user_key(user), False, 0))], chosen=True)


async def opt_in(rig: InMemoryRig | RedisRig, user: str = "ada", **how: bool) -> Choice:
    chosen = await rig.choices.timestamped(Choice(user_key(user), True, 0))
    await rig.choices.merge([chosen], **{"chosen": True, **how})
    return chosen


async def say(rig: InMemoryRig | RedisRig, *contents: str, user: str = "ada") -> None:
    for content in contents:
        await rig.push(json.dumps({"task_id": content, "user_id": user, "content": content}).encode())


async def handed_out(rig: InMemoryRig | RedisRig) -> dict[str, bool]:
    """Content → whether the opt-in applies to the task at this hand-out; everything is settled."""
    applies = {}
    while turns := (await rig.queue.settle_and_fetch([], 64)).turns:
        for turn in turns:
            assert turn.choice is not None
            applies[json.loads(turn.payload)["content"]] = applies_to(turn.choice.entry, turn.first_ms)
        await rig.queue.settle_and_fetch([Settlement(turn.receipt, Outcome.MEMORY) for turn in turns], 0)
    return applies


async def test_opt_in_applies_only_to_tasks_pushed_after_it(rig: InMemoryRig | RedisRig) -> None:
    await choose_in_private(rig)
    await say(rig, "in flight", "in lane")
    (turn,) = (await rig.queue.settle_and_fetch([], 1)).turns
    await opt_in(rig)
    await say(rig, "after")  # in the same millisecond, perhaps
    assert not applies_to((await rig.choices.read("ada")).entry, turn.first_ms)
    await rig.queue.release([turn.receipt])
    assert await handed_out(rig) == {"in flight": False, "in lane": False, "after": True}


async def test_opt_in_waits_for_tasks_in_the_request_list(rig: Any) -> None:
    await choose_in_private(rig)
    await say(rig, "before", "also before")
    await opt_in(rig)
    assert not applies_to((await rig.choices.read("ada")).entry, 2**50)
    await say(rig, "after", "also after")
    expected = {"before": False, "also before": False, "after": True, "also after": True}
    assert await handed_out(rig) == expected
    assert (await entry(rig)).permanent_memory is True


async def test_opt_ins_of_two_users_wait_for_their_own_tasks(rig: InMemoryRig | RedisRig) -> None:
    for user in ("ada", "bo"):
        await choose_in_private(rig, user)
    await say(rig, "a1")
    await opt_in(rig)
    await say(rig, "a2")
    await say(rig, "b1", user="bo")
    await opt_in(rig, "bo")
    await say(rig, "b2", user="bo")
    assert await handed_out(rig) == {"a1": False, "a2": True, "b1": False, "b2": True}


async def test_remerged_opt_in_excludes_tasks_restored_by_a_failover(rig: Any) -> None:
    await choose_in_private(rig)
    replica = await rig.snapshot()
    await say(rig, "private")
    assert await handed_out(rig) == {"private": False}
    chosen = await opt_in(rig)
    await rig.roll_back(replica)
    await say(rig, "private")  # in the request list again
    await rig.choices.merge([chosen])
    await say(rig, "after")
    assert await handed_out(rig) == {"private": False, "after": True}


async def test_choices_that_follow_each_other_at_once_leave_only_the_last_words_to_an_agent(rig: RedisRig) -> None:
    said = {}
    for number in range(4):
        await choose_in_private(rig)
        await say(rig, f"private {number}")
        said[f"private {number}"] = False
        await opt_in(rig)
    await say(rig, "after")
    assert await handed_out(rig) == {**said, "after": True}
    await choose_in_private(rig)
    await say(rig, "private again")
    assert await handed_out(rig) == {"private again": False}


async def test_opt_out_takes_back_an_opt_in_that_waits(rig: Any) -> None:
    await say(rig, "before")
    await opt_in(rig)
    await choose_in_private(rig)
    await say(rig, "private")
    assert await handed_out(rig) == {"before": False, "private": False}
    assert (await entry(rig)).permanent_memory is False


async def test_repeated_opt_in_applies_to_tasks_pushed_before_it(rig: InMemoryRig | RedisRig) -> None:
    await opt_in(rig)
    await say(rig, "between")
    first = await opt_in(rig, repeated=True)
    assert await entry(rig) == first
    assert await handed_out(rig) == {"between": True}
    await say(rig, "waits")
    await opt_in(rig)  # it repeats nothing, as far as its bridge knows
    assert await handed_out(rig) == {"waits": False}


async def test_repeated_opt_in_after_an_opt_out_in_redis_is_a_new_one(rig: InMemoryRig | RedisRig) -> None:
    await opt_in(rig)
    await choose_in_private(rig)
    await say(rig, "private")
    await opt_in(rig, repeated=True)
    assert await handed_out(rig) == {"private": False}


async def test_opt_in_of_the_previous_release_applies_by_its_time(rig: InMemoryRig | RedisRig) -> None:
    await rig.set(ADA, b"1 %d" % (time.time() * 1000 - 60_000))
    await say(rig, "after")
    assert await handed_out(rig) == {"after": True}
    await rig.set(ADA, b"1 %d" % (time.time() * 1000 + 60_000))
    await say(rig, "before")
    assert await handed_out(rig) == {"before": False}


@pytest.mark.integration
@pytest.mark.parametrize(("ahead_ms", "applies"), [(500, True), (600_000, False)])
async def test_task_is_later_than_an_opt_in_of_a_clock_that_has_gone_back_by_less_than_a_second(
    redis_url: str, ahead_ms: int, applies: Any
) -> None:
    rig = RedisRig(f"q-{uuid.uuid4().hex[:8]}", redis_url)
    try:
        await rig.client.hset(Keys(rig.requests).order, "newest_ms", round(time.time() * 1000) + ahead_ms)
        await choose_in_private(rig)
        await opt_in(rig)
        await say(rig, "after")
        (turn,) = (await rig.queue.settle_and_fetch([], 1)).turns
        assert turn.choice is not None
        assert applies_to(turn.choice.entry, turn.first_ms) is applies
        assert turn.first_ms < (time.time() + 2) * 1000
        assert turn.queued_seconds >= 0
    finally:
        await rig.close()


@pytest.mark.parametrize(
    ("held", "first_ms", "expected"),
    [
        (None, 9, False),
        (b"0 5", 9, False),
        (b"1 5", 6, True),
        (b"1 5", 5, False),
        (b"1 5 7", 8, True),
        (b"1 5 7", 7, False),
        (b"1 5 +", 2**50, False),
        (b"1 5 some more", 6, True),
        (b"damaged", 9, False),
    ],
)
def test_opt_in_applies_only_to_later_tasks(held: bytes | None, first_ms: int, expected: bool) -> None:
    assert applies_to(held, first_ms) is expected


@pytest.mark.parametrize("payload", [b"nonsense", b'{"user_id": ["ada"]}', b'{"user_id": "a\\u0000b"}'])
async def test_hand_out_without_a_readable_user_includes_no_choice(rig: InMemoryRig | RedisRig, payload: bytes) -> None:
    await rig.push(payload)
    (turn,) = (await rig.queue.settle_and_fetch([], 1)).turns
    assert turn.choice is None


async def test_concurrent_choices_of_one_user_have_different_timestamps(rig: InMemoryRig | RedisRig) -> None:
    chosen = await asyncio.gather(*(rig.choices.choose(Choice(ADA, n % 2 == 0, 0)) for n in range(20)))
    assert len({choice.chosen_ms for choice in chosen}) == 20
    assert await entry(rig) == max(chosen, key=lambda choice: choice.chosen_ms)


@pytest.mark.integration
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["choose", "timestamped", "merge", "mark_complete", "mark_incomplete"]),
            st.sampled_from(["ada", "bo"]),
            st.booleans(),
            st.integers(0, 6).map(lambda n: 2**43 + n),
        ),
        max_size=12,
    )
)
async def test_model_and_scripts_agree(redis_url: str, steps: list[Any]) -> None:
    requests = f"q-{uuid.uuid4().hex[:8]}"
    model, real = InMemoryRig(requests), RedisRig(requests, redis_url)
    try:
        for verb, user, permanent_memory, chosen_ms in steps:
            choice = Choice(user_key(user), permanent_memory, chosen_ms)
            outcomes = []
            for rig in (model, real):
                if verb in {"choose", "timestamped"}:
                    outcomes.append(await getattr(rig.choices, verb)(choice))
                elif verb == "merge":
                    seen = await rig.choices.merge([choice])
                    outcomes.append((seen.complete, seen.changes))
                elif verb == "mark_complete":
                    outcomes.append(await rig.choices.mark_complete(await rig.choices.state()))
                else:
                    await rig.choices.mark_incomplete()
                    outcomes.append(None)
            assert outcomes[0] == outcomes[1], verb
        assert await kept(model) == await kept(real)
        assert (await model.choices.state()).complete == (await real.choices.state()).complete
    finally:
        await real.lose()
        await real.close()

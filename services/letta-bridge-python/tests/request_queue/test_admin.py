"""What an operator does with a queue, on a real Redis."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from letta_bridge.request_queue import Outcome, PauseMode, RedisQueue, Settlement
from letta_bridge.request_queue.admin import DeadLetter, QueueAdmin
from letta_bridge.request_queue.port import Turn
from letta_bridge.settings import QueueSettings
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import connect

pytestmark = pytest.mark.integration


class Rig:
    """One queue with a bridge and an operator."""

    def __init__(self, url: str) -> None:
        self.settings = QueueSettings(requests=f"q-{uuid.uuid4().hex[:8]}")
        self.client = connect(RedisSettings(url=url), name="rig")
        self.queue = RedisQueue(self.client, self.client, self.settings, "bridge-1")
        self.admin = QueueAdmin(self.client, self.settings)

    async def push(self, user: str, *task_ids: str) -> None:
        for task_id in task_ids:
            task = {"task_id": task_id, "user_id": user, "content": "你好"}
            await self.client.lpush(self.settings.requests, json.dumps(task, ensure_ascii=False))

    async def take(self, limit: int = 10) -> list[Any]:
        return (await self.queue.settle_and_fetch([], limit)).turns

    async def take_all(self) -> list[Turn]:
        """All turns, each settled at once so that its lane goes on."""
        turns = []
        while taken := await self.take():
            turns += taken
            await self.queue.settle_and_fetch([Settlement(turn.receipt, Outcome.ERROR) for turn in taken], 0)
        return turns

    async def bury(
        self, user: str, task_id: str, code: str = "upload_refused", *, time: float = 1.0, **identity: Any
    ) -> None:
        await self.push(user, task_id)
        (turn,) = await self.take()
        letter = {"code": code, "reason": "因为", "attempts": 1, "time": time, "task_id": task_id, "user_id": user}
        letter |= identity
        reply = json.dumps({"task_id": task_id, "error": True, "code": code, "retryable": False}).encode()
        end = Settlement(
            turn.receipt,
            Outcome.DEAD,
            user_id=user,
            task_id=task_id,
            reply=reply,
            dead=json.dumps(letter, ensure_ascii=False).encode(),
        )
        assert (await self.queue.settle_and_fetch([end], 0)).settled == [True]

    async def bury_payload(self, payload: bytes, **about: Any) -> Any:
        """As this release buries a task."""
        await self.client.lpush(self.settings.requests, payload)
        turns = await self.take()
        turn = next(turn for turn in turns if turn.payload == payload)
        letter = {"code": "internal", "number": turn.number, "lane": turn.lane, "attempts": turn.attempts} | about
        end = Settlement(turn.receipt, Outcome.DEAD, dead=json.dumps(letter, ensure_ascii=False).encode())
        assert (await self.queue.settle_and_fetch([end], 0)).settled == [True]
        await self.queue.release([other.receipt for other in turns if other is not turn])
        return turn

    async def adds_up(self) -> bool:
        status = await self.queue.status()
        settled = sum(count for name, count in status.counters.items() if name.startswith("settled:"))
        return status.counters["taken"] == settled + status.waiting + status.in_flight

    async def letters(self) -> list[Any]:
        return [letter async for letter in self.admin.dead()]


@pytest.fixture
async def rig(redis_url: str) -> AsyncIterator[Rig]:
    rig = Rig(redis_url)
    yield rig
    await rig.client.aclose()


async def test_lanes_tell_who_waits_and_who_is_served(rig: Any) -> None:
    await rig.push("ada", "1", "2", "3")
    await rig.push("小明", "4")
    (turn,) = await rig.take(1)
    lanes = await rig.admin.lanes(10)
    assert (lanes.in_flight, lanes.ready) == (1, 1)
    ada, ming = sorted(lanes.lanes, key=lambda lane: lane.lane)
    assert (ada.lane, ada.waiting) == ("ada", 2)
    assert (ada.in_flight.receipt, ada.in_flight.bridge, ada.in_flight.attempts) == (turn.receipt, "bridge-1", 1)
    assert 0 < ada.in_flight.lease_left <= rig.settings.lease_seconds
    assert (ming.lane, ming.waiting, ming.in_flight) == ("小明", 1, None)


async def test_a_turn_in_flight_is_as_old_as_its_hand_out(rig: Any) -> None:
    """Its task may have waited in its lane for an hour."""
    await rig.push("ada", "1")
    await rig.take(0)
    key = rig.admin.keys.lane("ada")
    seq, attempts, rest = (await rig.client.rpop(key)).split(b" ", 2)
    taken, payload = rest.split(b"\n", 1)
    await rig.client.rpush(key, b"%s %s %d\n%s" % (seq, attempts, int(taken) - 3_600_000, payload))
    (turn,) = await rig.take(1)
    (ada,) = (await rig.admin.lanes(10)).lanes
    assert ada.in_flight.age < 600
    await rig.client.zrem(rig.admin.keys.begun, turn.receipt)  # as a bridge of an older release hands out
    (ada,) = (await rig.admin.lanes(10)).lanes
    assert ada.in_flight.age >= 3_600


@pytest.mark.parametrize("end", ["settled", "released", "settled by an older release"])
async def test_no_hand_out_time_outlives_its_turn(rig: Rig, end: str) -> None:
    await rig.push("ada", "1")
    (turn,) = await rig.take(1)
    begun = rig.admin.keys.begun
    assert await rig.client.zcard(begun) == 1
    if end == "released":
        await rig.queue.release([turn.receipt])
        assert await rig.client.zcard(begun) == 0
        return
    await rig.queue.settle_and_fetch([Settlement(turn.receipt, Outcome.ERROR)], 0)
    if end != "settled":
        await rig.client.zadd(begun, {turn.receipt: 1})
        await rig.take(0)
    assert await rig.client.zcard(begun) == 0


async def test_lanes_are_cut_to_the_longest_waiting(rig: Any) -> None:
    await rig.push("old", "1")
    await rig.take(0)
    key = rig.admin.keys.lane("old")
    entry = await rig.client.rpop(key)
    seq, attempts, rest = entry.split(b" ", 2)
    taken, payload = rest.split(b"\n", 1)
    await rig.client.rpush(key, b"%s %s %d\n%s" % (seq, attempts, int(taken) - 60_000, payload))
    for number in range(250):
        await rig.push(f"user{number}", "1")
    await rig.take(0)
    lanes = await rig.admin.lanes(3)
    assert lanes.ready == 251
    assert len(lanes.lanes) == 3
    assert (lanes.lanes[0].lane, lanes.lanes[0].oldest_wait >= 60) == ("old", True)


async def test_nothing_unfinished_means_no_entry_is_left(rig: Rig) -> None:
    assert await rig.admin.unfinished() == (0, 0)
    await rig.push("ada", "1", "2")
    await rig.push("bo", "3")
    (turn,) = await rig.take(1)
    assert await rig.admin.unfinished() == (1, 1)
    await rig.queue.release([turn.receipt])
    assert await rig.admin.unfinished() == (0, 2)


async def test_pause_has_its_time_and_reason(rig: Rig) -> None:
    assert await rig.admin.paused() is None
    await rig.admin.pause(PauseMode.INTAKE, "升级")
    paused = await rig.admin.paused()
    assert paused is not None
    assert (paused.mode, paused.reason) == (PauseMode.INTAKE, "升级")
    assert paused is not None
    assert paused.since > 1_000_000_000
    assert await rig.admin.resume() == paused
    assert await rig.admin.resume() is None


async def test_paused_queue_keeps_its_request_list(rig: Rig) -> None:
    await rig.admin.pause(PauseMode.ALL)
    await rig.push("ada", "1", "2")
    assert await rig.take() == []
    await rig.queue.wait_and_fetch(1, 0.05)
    await rig.queue.wait_and_fetch(1, 0.05)
    assert await rig.client.llen(rig.settings.requests) == 2


async def test_dead_letters_come_newest_first_with_ids_that_last(rig: Rig) -> None:
    for number in range(3):
        await rig.bury("ada", f"t{number}", time=float(number))
    newest, _, oldest = await rig.letters()
    assert (newest.about["task_id"], oldest.about["task_id"], oldest.position) == ("t2", "t0", 1)
    assert json.loads(newest.payload)["content"] == "你好"
    assert await rig.admin.drop(oldest)
    await rig.bury("bo", "new")
    assert [letter.id for letter in await rig.letters()][1] == newest.id
    (found,) = await rig.admin.find_dead(newest.id[:6])
    assert found.about == newest.about


async def test_retried_letter_is_handed_out_and_answered(rig: Rig) -> None:
    await rig.bury("ada", "t1")
    (letter,) = await rig.letters()
    assert await rig.admin.retry(letter)
    assert not await rig.admin.retry(letter)
    assert await rig.letters() == []
    (turn,) = await rig.take()
    assert json.loads(turn.payload)["task_id"] == "t1"
    assert json.loads(turn.kept_reply)["retryable"] is True


async def test_retried_task_keeps_its_idempotency_key(rig: Any) -> None:
    await rig.bury("ada", "t1", idempotency_key="7-1000", taken_at=1.0, content_digest="abc")
    await rig.bury("ada", "t2", time=5000.0)  # by the previous release
    for letter in await rig.letters():
        assert await rig.admin.retry(letter)
    kept = {json.loads(turn.payload)["task_id"]: json.loads(turn.kept_reply) for turn in await rig.take_all()}
    assert kept["t1"].items() >= {"idempotency_key": "7-1000", "taken_at": 1.0, "content_digest": "abc"}.items()
    assert kept["t2"]["taken_at"] < 5000.0
    assert "idempotency_key" not in kept["t2"]


@pytest.mark.parametrize("kept", [None, "7-1000", "8-1000"])
async def test_a_retried_task_keeps_the_name_of_an_earlier_one_and_leaves_that_of_another(
    rig: Any, kept: str | None
) -> None:
    payload = b'{"task_id":"t1","user_id":"ada","content":"x"}'
    identity = {"idempotency_key": "7-1000", "taken_at": 1.0, "content_digest": "abc"}
    await rig.bury_payload(payload, task_id="t1", user_id="ada", **identity)
    if kept is not None:
        error = {"task_id": "t1", "error": True, "retryable": True, "idempotency_key": kept}
        await rig.client.set(rig.admin.keys.reply("ada", "t1"), json.dumps(error))
    (letter,) = await rig.letters()
    assert await rig.admin.retry(letter)
    (turn,) = await rig.take()
    assert json.loads(turn.kept_reply)["idempotency_key"] == (kept or "7-1000")
    assert turn.attempts == 2


async def test_a_retried_letter_does_not_hide_a_real_answer(rig: Rig) -> None:
    await rig.bury("ada", "t1")
    answer = b'{"task_id":"t1","response_text":"hi"}'
    await rig.client.set(rig.admin.keys.reply("ada", "t1"), answer)
    (letter,) = await rig.letters()
    assert await rig.admin.retry(letter)
    (turn,) = await rig.take()
    assert turn.kept_reply == answer


@pytest.mark.parametrize(
    ("payload", "about", "lane"),
    [
        (b'{"user_id":"ada","task_id":"t1"}', {"user_id": "ada", "task_id": "t1"}, "ada"),
        (b'{"user_id":7,"task_id":7}', {"user_id": "7", "task_id": "7"}, "7"),
        (b'{"content":"nobody says it"}', {"user_id": None, "task_id": None}, "anonymous"),
        (b'{"user_id":"ada","content":"no id"}', {"user_id": "ada", "task_id": None}, "ada"),
        (b"\xff\x00 no JSON", {"user_id": None, "task_id": None}, "~1"),
        (b"", {"user_id": None, "task_id": None}, "~1"),
    ],
)
async def test_a_retried_task_keeps_its_number_and_counts_as_handed_out(
    rig: Rig, payload: bytes, about: dict[str, Any], lane: str
) -> None:
    dead = await rig.bury_payload(payload, **about)
    (letter,) = await rig.letters()
    assert await rig.admin.retry(letter)
    assert await rig.adds_up()
    (turn,) = await rig.take()
    assert (turn.number, turn.lane, turn.payload) == (dead.number, lane, payload)
    assert (turn.attempts, turn.deliveries) == (2, 1), "max_deliveries does not count what an operator forgave"
    assert await rig.letters() == []


async def test_retried_task_waits_for_its_users_turn_in_flight(rig: Rig) -> None:
    dead = await rig.bury_payload(b'{"user_id":"ada","task_id":"t1"}', user_id="ada", task_id="t1")
    await rig.push("ada", "t2")
    (flying,) = await rig.take()
    assert await rig.admin.retry((await rig.letters())[0])
    assert await rig.take() == []
    end = Settlement(flying.receipt, Outcome.LETTA, user_id="ada", task_id="t2")
    (turn,) = (await rig.queue.settle_and_fetch([end], 1)).turns
    assert turn.number == dead.number


@pytest.mark.parametrize("release", ["this", "before"])
async def test_retried_task_is_not_answered_from_its_stored_error(rig: Rig, release: str) -> None:
    kept = json.dumps({"task_id": "t1", "error": True, "code": "internal", "retryable": False})
    if release == "this":
        await rig.bury_payload(b'{"user_id":"ada","task_id":"t1"}', user_id="ada", task_id="t1")
    else:
        await rig.bury("ada", "t1")
    await rig.client.set(rig.admin.keys.reply("ada", "t1"), kept)
    assert await rig.admin.retry((await rig.letters())[0])
    (turn,) = await rig.take()
    assert turn.kept_reply is None or json.loads(turn.kept_reply)["retryable"] is True


async def test_a_retried_task_does_not_hide_a_real_answer_either(rig: Rig) -> None:
    await rig.bury_payload(b'{"user_id":"ada","task_id":"t1"}', user_id="ada", task_id="t1")
    answer = b'{"task_id":"t1","response_text":"hi"}'
    await rig.client.set(rig.admin.keys.reply("ada", "t1"), answer)
    assert await rig.admin.retry((await rig.letters())[0])
    (turn,) = await rig.take()
    assert turn.kept_reply == answer


@pytest.mark.parametrize(("user", "lane"), [("ada", "ada"), ("~ada", "~~ada")])
async def test_retry_moves_a_task_of_an_overflow_lane_to_its_users_lane(rig: Rig, user: str, lane: str) -> None:
    rig.queue.max_lane = 1
    await rig.push(user, "t1")
    await rig.client.lpush(rig.settings.requests, json.dumps({"user_id": user, "task_id": "t2"}))
    turns = await rig.take()
    (refused,) = [turn for turn in turns if turn.found_lane_full(user)]
    letter = {"code": "too_many_deliveries", "number": refused.number, "lane": refused.lane, "user_id": user}
    ends = [Settlement(turn.receipt, Outcome.LETTA, user_id=user) for turn in turns if turn is not refused]
    ends.append(Settlement(refused.receipt, Outcome.DEAD, dead=json.dumps(letter).encode()))
    await rig.queue.settle_and_fetch(ends, 0)
    assert await rig.admin.retry((await rig.letters())[0])
    (turn,) = await rig.take()
    assert (turn.number, turn.lane) == (refused.number, lane)


async def test_stale_position_removes_no_other_letter(rig: Rig) -> None:
    await rig.bury("ada", "t1")
    await rig.bury("bo", "t2")
    _, oldest = await rig.letters()
    assert await rig.admin.drop(oldest)
    assert not await rig.admin.drop(oldest)
    assert await rig.admin.payload(oldest) is None
    assert [letter.about["task_id"] for letter in await rig.letters()] == ["t2"]


async def test_a_sweep_takes_the_chosen_ones_in_order_and_leaves_the_rest(rig: Rig) -> None:
    for number in range(230):
        await rig.bury("ada", f"t{number}", "internal" if number % 2 else "malformed")
    swept = [letter async for letter in rig.admin.sweep(lambda letter: letter.code == "internal", retry=True)]
    assert [letter.about["task_id"] for letter in swept] == [f"t{number}" for number in range(1, 230, 2)]
    assert {letter.code for letter in await rig.letters()} == {"malformed"}
    pushed = await rig.client.lrange(rig.settings.requests, 0, -1)
    assert [json.loads(task)["task_id"] for task in reversed(pushed)] == [f"t{n}" for n in range(1, 230, 2)]


async def test_a_sweep_keeps_to_its_range(rig: Rig) -> None:
    for number in range(5):
        await rig.bury("ada", f"t{number}")
    swept = [letter async for letter in rig.admin.sweep(lambda _: True, retry=False, first=2, last=3)]
    assert [letter.about["task_id"] for letter in swept] == ["t1", "t2"]
    assert len(await rig.letters()) == 3


async def sweep_while_somebody_drops(
    rig: Rig, gone: Callable[..., Any], after: int = 1, **sweep: int
) -> tuple[list[str], list[str]]:
    """The tasks that are retried, in order, and those that were asked about; others' letters go after the first few."""
    retried, asked = [], []

    def chosen(letter: DeadLetter) -> bool:
        asked.append(letter.about["task_id"])
        return letter.code == "internal"

    async for letter in rig.admin.sweep(chosen, retry=True, **sweep):
        retried.append(letter.about["task_id"])
        if len(retried) == after:
            dropped = [one async for one in QueueAdmin(rig.client, rig.settings).sweep(gone, retry=False)]
            assert dropped
    return retried, asked


async def test_sweep_misses_no_letter_while_older_ones_are_dropped(rig: Rig) -> None:
    for number in range(230):
        await rig.bury("ada", f"t{number}", "internal" if number % 3 else "malformed")
    meant = [f"t{number}" for number in range(230) if number % 3]
    retried, asked = await sweep_while_somebody_drops(rig, lambda letter: letter.code == "malformed", after=50)
    assert retried == meant
    assert len(asked) == len(set(asked))
    assert await rig.letters() == []


async def test_sweep_misses_no_letter_if_adjacent_ones_are_removed(rig: Rig) -> None:
    for number in range(30):
        await rig.bury("ada", f"t{number}", "internal")
    going = {"t1", "t2", "t20", "t29"}
    retried, _ = await sweep_while_somebody_drops(rig, lambda letter: letter.about["task_id"] in going)
    assert retried == [f"t{number}" for number in range(30) if f"t{number}" not in going]


async def test_sweep_keeps_to_its_range_while_older_letters_are_dropped(rig: Rig) -> None:
    for number in range(10):
        await rig.bury("ada", f"t{number}", "internal")
    retried, _ = await sweep_while_somebody_drops(rig, lambda letter: letter.about["task_id"] == "t1", first=4, last=6)
    assert retried == ["t3", "t4", "t5"]


async def test_a_sweep_that_cannot_tell_its_range_any_more_ends(rig: Rig) -> None:
    for number in range(10):
        await rig.bury("ada", f"t{number}", "internal")
    older = {"t0", "t1", "t2"}
    retried, _ = await sweep_while_somebody_drops(rig, lambda letter: letter.about["task_id"] in older, first=4, last=6)
    assert retried == ["t3"]


async def test_sweep_leaves_letters_that_arrive_meanwhile(rig: Rig) -> None:
    for number in range(5):
        await rig.bury("ada", f"t{number}", "internal")
    retried = []
    async for letter in rig.admin.sweep(lambda _: True, retry=False):
        retried.append(letter.about["task_id"])
        await rig.bury("ada", f"again-{letter.about['task_id']}", "internal")
    assert retried == [f"t{number}" for number in range(5)]


async def test_letter_is_found_after_older_ones_were_removed(rig: Any) -> None:
    for number in range(130):
        await rig.bury("ada", f"t{number}")
    letters = {letter.about["task_id"]: letter for letter in await rig.letters()}
    for number in range(110):
        assert await rig.admin.drop(letters[f"t{number}"])
    assert json.loads(await rig.admin.payload(letters["t120"]))["task_id"] == "t120"
    assert await rig.admin.retry(letters["t125"])
    assert not await rig.admin.drop(letters["t125"])


async def test_foreign_dead_letters_are_listed_and_can_be_dropped(rig: Rig) -> None:
    await rig.client.lpush(rig.admin.keys.dead, b"\xff\x00 no line", b"[1]\npayload")
    listed, garbage = await rig.letters()
    assert (listed.code, listed.payload) == ("unknown", b"payload")
    assert (garbage.code, garbage.size) == ("unknown", 0)
    assert await rig.admin.drop(garbage)


@pytest.mark.parametrize(
    "letter", [b"\x00\xff damaged", b"[]\n{}", b"", b'{"code":"internal"}', b'{"cut o\n{"task_id":"1"}']
)
async def test_a_damaged_letter_survives_a_retry_and_can_be_dropped(rig: Rig, letter: bytes) -> None:
    await rig.client.lpush(rig.admin.keys.dead, letter)
    assert [letter async for letter in rig.admin.sweep(lambda _: True, retry=True)] == []
    [shown] = [letter async for letter in rig.admin.dead()]
    assert not await rig.admin.retry(shown)
    assert await rig.client.lrange(rig.admin.keys.dead, 0, -1) == [letter]
    assert await rig.client.llen(rig.admin.keys.requests) == 0
    assert await rig.admin.drop(shown)
    assert await rig.admin.dead_count() == 0


async def bury_raw(rig: Rig, *sizes: int) -> None:
    """Letters with payloads of these sizes, the last one newest."""
    for number, size in enumerate(sizes):
        line = json.dumps({"code": "payload_too_large", "number": f"{number + 1}-1"})
        await rig.client.lpush(rig.admin.keys.dead, f"{line}\n{number % 10}".encode() + b"x" * (size - 1))


async def test_a_page_of_dead_letters_ends_behind_its_first_megabyte(rig: Rig) -> None:
    await bury_raw(rig, 10, 700_000, 700_000, 700_000, 10)
    older = await rig.admin._letters(1, 5, 0)
    newer = await rig.admin._letters(5, 1, 0)
    assert [letter.position for letter in older] == [1, 2, 3]
    assert [letter.position for letter in newer] == [5, 4, 3]
    assert len(await rig.admin._letters(4, 4, 0)) == 1
    assert await rig.admin._letters(6, 9, 0) == []


async def test_large_dead_letters_are_listed_found_and_removed_page_by_page(rig: Rig) -> None:
    sizes = [600_000, 10, 3_000_000, 3_000_000, 10, 600_000]
    await bury_raw(rig, *sizes)
    listed = await rig.letters()
    assert [(letter.position, letter.size) for letter in listed] == [
        (position, sizes[position - 1]) for position in (6, 5, 4, 3, 2, 1)
    ]
    assert len({letter.id for letter in listed}) == len(sizes)
    (third,) = await rig.admin.find_dead(listed[3].id)
    assert await rig.admin.payload(third) == b"2" + b"x" * 2_999_999
    assert await rig.admin.drop(third)
    swept = [letter async for letter in rig.admin.sweep(lambda _: True, retry=False)]
    assert [letter.size for letter in swept] == [600_000, 10, 3_000_000, 10, 600_000]
    assert await rig.admin.dead_count() == 0


async def test_the_id_of_an_ordinary_letter_is_the_sha1_of_all_of_it(rig: Rig) -> None:
    await bury_raw(rig, 200_000)
    (letter,) = await rig.letters()
    stored: Any
    (stored,) = await rig.client.lrange(rig.admin.keys.dead, 0, -1)
    assert letter.digest == hashlib.sha1(stored, usedforsecurity=False).hexdigest()


async def test_a_large_letter_is_requeued_to_the_byte(rig: Rig) -> None:
    payload = b'{"user_id":"ada","content":"' + b"x" * 900_000 + b'\n\x00\xff"}'
    await rig.client.lpush(rig.settings.requests, payload)
    (turn,) = await rig.take()
    about = {"code": "payload_too_large", "number": turn.number, "lane": turn.lane}
    end = Settlement(turn.receipt, Outcome.DEAD, dead=json.dumps(about).encode())
    assert (await rig.queue.settle_and_fetch([end], 0)).settled == [True]
    (letter,) = await rig.letters()
    assert await rig.admin.retry(letter)
    entry: Any
    (entry,) = await rig.client.lrange(rig.admin.keys.lane_prefix + turn.lane, 0, -1)
    assert entry.partition(b"\n")[2] == payload


async def test_without_the_right_to_ask_for_memory_letters_are_kept_and_missed_turns_bounded(
    rig: Rig, redis_url: str
) -> None:
    await rig.client.execute_command("ACL", "SETUSER", "earlier", "on", ">secret", "~*", "&*", "+@all", "-memory")
    url = redis_url.replace("redis://", "redis://earlier:secret@")
    client = connect(RedisSettings(url=url), name="earlier")
    try:
        few = rig.settings.model_copy(update={"missed_bytes": 1024, "dead_bytes": 1024})
        queue = RedisQueue(client, client, few, "bridge-2")
        for task_id in ("1", "2"):
            await rig.push("ada", task_id)
            (turn,) = (await queue.settle_and_fetch([], 1)).turns
            missed = b'{"n":%s,"text":"%s"}' % (task_id.encode(), b"x" * 900)
            end = Settlement(turn.receipt, Outcome.DEAD, user_id="ada", missed=(missed,), dead=b"{}")
            assert (await queue.settle_and_fetch([end], 0)).settled == [True]
        assert await queue.missed("ada") == [missed]
        assert await rig.admin.dead_count() == 2
    finally:
        await client.aclose()
        await rig.client.execute_command("ACL", "DELUSER", "earlier")

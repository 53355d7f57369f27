"""What each limit lets through, what a user who hits one is told, and what a limit costs that is off."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from letta_bridge.errors import LIMIT_CODES, TaskExpired
from letta_bridge.letta import TurnAnswer, Usage
from letta_bridge.limits import Limiter, UsageSnapshot
from letta_bridge.request_queue import Turn
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.settings import LimitSettings
from letta_bridge.turn.lease import TurnLease
from shared_utils.contracts.messages import Task

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

pytestmark = pytest.mark.virtual_time

NOW = 1_795_000_000.0


class UsageStore:
    """Says what it was told to, and remembers that it was asked."""

    def __init__(self, standing: UsageSnapshot | None = None, error: RedisConnectionError | None = None) -> None:
        self.standing = standing or UsageSnapshot()
        self.error = error
        self.asked = 0
        self.spent: list[Any] = []

    async def admit(self, user_id: str, *, per_minute: float, burst: int) -> UsageSnapshot:
        self.asked += 1
        if self.error:
            raise self.error
        return self.standing

    async def spend(self, user_id: str, tokens: int) -> None:
        if self.error:
            raise self.error
        self.spent.append((user_id, tokens))


def make(meter: UsageStore | None = None, **settings: Any) -> Limiter:
    return Limiter(LimitSettings.model_validate(settings), meter or UsageStore(), clock=lambda: NOW)


def turn(**fields: Any) -> Any:
    return Turn(**{"receipt": "1-1", "lane": "ada", "attempts": 1, "seq": 1, "first_ms": 0, "payload": b"", **fields})


def task(**fields: float | str | None) -> Task:
    return Task(task_id="t1", user_id="ada", content="hi", **fields)


async def test_limits_that_are_off_read_no_counter() -> None:
    meter = UsageStore()
    limiter = make(meter)
    admission = await limiter.admit(turn(queued_seconds=1e9), task(timestamp=NOW - 1e9))
    assert admission.to_letta() is None
    await limiter.spent("ada", 1000)
    assert (meter.asked, meter.spent) == (0, [])


@pytest.mark.parametrize(
    ("queued_seconds", "timestamp", "expired"),
    [
        (61.0, None, True),
        (59.0, None, False),
        (0.0, NOW - 61, True),
        (0.0, NOW - 59, False),
        (0.0, NOW + 1e6, False),  # a producer's clock that is ahead
        (0.0, 12_345.6, False),  # the clock of an event loop
        (0.0, (NOW - 61) * 1000, False),  # milliseconds
        (0.0, dt.datetime.fromtimestamp(NOW - 61, dt.UTC).isoformat(), True),
        (0.0, "2020-01-01T00:00:00", False),  # of no known zone
        (0.0, "yesterday", False),
    ],
)
async def test_a_task_that_waited_too_long_is_not_answered(
    queued_seconds: float, timestamp: float | str | None, expired: bool
) -> None:
    limiter = make(max_age_seconds=60)
    if not expired:
        assert (await limiter.admit(turn(queued_seconds=queued_seconds), task(timestamp=timestamp))).to_letta() is None
        return
    with pytest.raises(TaskExpired, match="more than 60 s"):
        await limiter.admit(turn(queued_seconds=queued_seconds), task(timestamp=timestamp))


@pytest.mark.parametrize(
    ("budgets", "standing", "kind", "code"),
    [
        ({"user_tokens": {"soft": 100}}, UsageSnapshot(user_tokens=99), None, None),
        ({"user_tokens": {"soft": 100}}, UsageSnapshot(user_tokens=100), "soft", "user_token_budget_exhausted"),
        (
            {"user_tokens": {"soft": 100, "hard": 200}},
            UsageSnapshot(user_tokens=200),
            "hard",
            "user_token_budget_exhausted",
        ),
        ({"all_tokens": {"soft": 100}}, UsageSnapshot(all_tokens=100), "soft", "token_budget_exhausted"),
        ({"all_tokens": {"hard": 100}}, UsageSnapshot(all_tokens=100), "hard", "token_budget_exhausted"),
        (
            {"user_tokens": {"soft": 1}, "all_tokens": {"hard": 1}},
            UsageSnapshot(True, 9, 9),
            "hard",
            "token_budget_exhausted",
        ),
    ],
)
async def test_a_soft_budget_falls_back_and_a_hard_one_refuses(
    budgets: dict[str, dict[str, int]], standing: UsageSnapshot, kind: str | None, code: str | None
) -> None:
    admission = await make(UsageStore(standing), **budgets).admit(turn(), task())
    assert {name: hit.code for name in ("soft", "hard") if (hit := getattr(admission, name))} == (
        {kind: code} if kind else {}
    )


async def test_while_the_usage_store_is_unavailable_turns_go_through() -> None:
    limiter = make(UsageStore(error=RedisConnectionError("away")), turns_per_minute=1, user_tokens={"hard": 1})
    assert (await limiter.admit(turn(), task())).to_letta() is None
    await limiter.spent("ada", 5)


def answers(rig: Rig) -> list[tuple[str, str]]:
    return [(reply["task_id"], reply.get("code") or reply["source"]) for reply in rig.replies()]


async def test_rate_limit_refuses_only_the_fast_user(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(limits={"turns_per_minute": 1, "burst": 2})
    for number in range(4):
        rig.push(f"a{number}", user="ada")
    rig.push("b0", user="bo")
    await rig.work_off()
    assert sorted(answers(rig)) == [
        ("a0", "letta"), ("a1", "letta"), ("a2", "user_rate_limited"), ("a3", "user_rate_limited"), ("b0", "letta"),
    ]  # fmt: skip
    reply = rig.kept(task_id="a2")
    assert (reply["retryable"], reply["message"][:40]) == (True, "this user sends more than 1 messages a m")
    assert rig.outcomes() == {"letta": 3, "error": 2}


async def test_a_refused_task_that_is_sent_again_is_judged_again_and_answered_as_if_new(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(limits={"turns_per_minute": 1, "burst": 1})
    rig.push("a0")
    rig.push("a1")
    await rig.work_off()
    rig.push("a1")
    await rig.work_off()
    rig.time += 60
    rig.push("a1")
    await rig.work_off()
    assert answers(rig) == [("a0", "letta"), ("a1", "user_rate_limited"), ("a1", "user_rate_limited"), ("a1", "letta")]
    assert await rig.said_to_agents() == {"ada": ["hi", "hi"]}


async def test_turn_that_may_be_stored_is_completed_despite_limits(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(
        letta={"fallback_to_memory": False, "retry_attempts": 0}, limits={"turns_per_minute": 0.001, "burst": 1}
    )
    rig.letta.down = True
    rig.push("a0")
    await rig.work_off()
    rig.letta.down = False
    rig.push("a0")
    await rig.work_off()
    assert answers(rig) == [("a0", "letta_unavailable"), ("a0", "letta")]


async def test_a_spent_budget_falls_back_then_refuses_and_the_agent_catches_up_next_day(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(limits={"user_tokens": {"soft": 10, "hard": 1000}})
    await rig.meter.spend("ada", 10)
    rig.push("a0", content="first")
    await rig.work_off()
    await rig.meter.spend("ada", 990)
    rig.push("a1", content="second")
    await rig.work_off()
    rig.time += 86_400
    rig.push("a2", content="third")
    await rig.work_off()
    assert answers(rig) == [("a1", "user_token_budget_exhausted"), ("a2", "letta")]
    assert rig.fallback.answered == [("a0", "user_token_budget_exhausted")]
    assert await rig.said_to_agents() == {"ada": ["first", "third"]}


async def test_budget_does_not_affect_tasks_for_memory_python(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"all_tokens": {"hard": 1}})
    await rig.meter.spend("ada", 1)
    rig.push("a0", meta={"memory_type": "temporary"})
    await rig.work_off()
    assert rig.outcomes() == {"memory": 1}


async def test_a_turns_tokens_are_counted(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"user_tokens": {"soft": 10**9}})
    rig.letta._answer = lambda _agent, _messages: TurnAnswer("hello", usage=Usage(40, 2, 42, 1))
    rig.push("a0")
    await rig.work_off()
    standing = await rig.meter.admit("ada", per_minute=0, burst=1)
    assert standing.user_tokens == standing.all_tokens == rig.kept(task_id="a0")["usage"]["total_tokens"] == 42


async def test_full_lane_refuses_at_once_and_keeps_waiting_tasks_in_order(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"max_pending_per_user": 3})
    for number in range(8):
        rig.push(f"a{number}", content=f"say {number}")
    rig.push("b0", user="bo")
    await rig.work_off()
    told = answers(rig)
    assert [task_id for task_id, source in told if source == "letta" and task_id != "b0"] == ["a0", "a1", "a2"]
    assert {task_id for task_id, source in told if source == "user_queue_full"} == {"a3", "a4", "a5", "a6", "a7"}
    assert (await rig.said_to_agents())["ada"] == ["say 0", "say 1", "say 2"]
    counters = rig.shelf.counters
    assert counters["taken"] == counters["settled:letta"] + counters["settled:error"] == 9


@pytest.mark.parametrize("limit", [{"max_pending_per_user": 3}, {}], ids=["limited", "not limited any more"])
@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_a_task_whose_lane_was_full_is_refused_on_every_delivery(
    make_rig: Callable[..., Rig], attempts: int, limit: dict[str, Any]
) -> None:
    rig = make_rig(limits=limit)
    payload = json.dumps({"task_id": "t1", "user_id": "ada", "content": "hi"}).encode()
    refused = turn(lane="~full:7", attempts=attempts, payload=payload)
    settlement: Any = await rig.processor().process(refused, TurnLease(30, clock()))
    assert json.loads(settlement.reply)["code"] == "user_queue_full"
    assert settlement.tally == ("turned_away", "guard:user_queue_full")
    assert rig.letta.sent == []


async def test_a_user_who_is_called_like_an_overflow_lane_is_served(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"max_pending_per_user": 3})
    rig.push("t1", user="~full:7")
    await rig.work_off()
    assert answers(rig) == [("t1", "letta")]


async def test_overflow_refusal_survives_a_killed_bridge(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"max_pending_per_user": 2})
    for number in range(6):
        rig.push(f"a{number}", content=f"say {number}")
    dying = rig.queue("dying")
    assert len((await dying.settle_and_fetch([], 10)).turns) == 5, "a0, and four to refuse; a1 waits behind a0"
    rig.time += rig.settings.queue.lease_seconds + 1
    await rig.work_off()
    told = dict(answers(rig))
    assert [task_id for task_id, source in told.items() if source == "letta"] == ["a0", "a1"]
    assert {task_id for task_id, source in told.items() if source == "user_queue_full"} == {"a2", "a3", "a4", "a5"}
    assert (await rig.said_to_agents())["ada"] == ["say 0", "say 1"]


async def test_a_task_refused_by_a_full_lane_may_be_sent_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"max_pending_per_user": 1})
    rig.push("a0")
    rig.push("a1", content="again")
    await rig.work_off()
    assert rig.kept(task_id="a1")["code"] == "user_queue_full"
    rig.push("a1", content="again")
    await rig.work_off()
    assert rig.kept(task_id="a1")["source"] == "letta"


async def test_refusal_does_not_block_the_first_task_with_its_id(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits={"max_pending_per_user": 1})
    rig.push("1", content="the first")
    rig.push("1", content="another")
    await rig.work_off()
    assert [reply.get("code", reply.get("response_text")) for reply in rig.replies()] == [
        "user_queue_full",
        "echo: the first",
    ]
    assert rig.kept(task_id="1")["response_text"] == "echo: the first"


async def test_limit_refusal_keeps_the_stored_reply_of_an_earlier_try(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(
        limits={"max_pending_per_user": 1},
        letta={"reply_deadline_seconds": 0.1, "timeout_seconds": 0.05, "retry_attempts": 0},
    )
    rig.push("t0", content="zero")
    await rig.work_off()
    rig.fallback.down = True
    with rig.letta.held() as hold:
        rig.push("t1", content="one")
        await rig.work_off()
        hold.release()
        await rig.letta.idle()
    rig.fallback.down = False
    for task_id, content in (("t2", "two"), ("t1", "one")):
        rig.push(task_id, content=content)
    await rig.work_off()
    assert rig.replies()[-2]["code"] == "user_queue_full" or rig.replies()[-1]["code"] == "user_queue_full"
    rig.push("t1", content="one")
    await rig.work_off()
    assert rig.replies()[-1]["response_text"] == "echo: one"
    assert (await rig.said_to_agents())["ada"].count("one") == 1


async def test_new_limits_hold_from_the_next_turn_on(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    processor = rig.processor()
    changed = rig.settings.model_copy(update={"limits": LimitSettings(max_age_seconds=10)})
    processor.reload(changed)
    payload = json.dumps({"task_id": "t1", "user_id": "ada", "content": "hi"}).encode()
    settlement: Any = await processor.process(turn(payload=payload, queued_seconds=11.0), lease=cast("Any", None))
    assert json.loads(settlement.reply)["code"] == "expired"


def test_each_limit_has_a_code_of_its_own() -> None:
    assert {
        "expired",
        "user_queue_full",
        "user_rate_limited",
        "user_token_budget_exhausted",
        "token_budget_exhausted",
    } == LIMIT_CODES

"""What turns leave behind in the metrics, and what no label may hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from letta_bridge.errors import LettaRejected, LettaUnavailable, OutcomeUnknown
from letta_bridge.letta import AgentSpec, SoughtTurn, TurnAnswer, Usage
from letta_bridge.request_queue import FetchResult, Outcome, Settlement, Turn
from letta_bridge.request_queue.port import Refusal
from letta_bridge.telemetry.metrics import LettaMetrics, loop_lag_watched
from letta_bridge.telemetry.middleware import instrumented

if TYPE_CHECKING:
    from letta_bridge_tests.telemetry.metrics.conftest import Metered

LABELS = {
    "letta_bridge_vectors_stored": {"kind"},
    "letta_bridge_vectors_removed": set(),
    "letta_bridge_build_info": {"version"},
    "letta_bridge_tasks": {"outcome"},
    "letta_bridge_stream_events": set(),
    "letta_bridge_interrupts": {"outcome"},
    "letta_bridge_errors": {"code"},
    "letta_bridge_settlements_refused": {"reason"},
    "letta_bridge_leases_lost": set(),
    "letta_bridge_redis_lost_writes": set(),
    "letta_bridge_out_of_resources": set(),
    "letta_bridge_retries": {"cause"},
    "letta_bridge_fallbacks": {"reason"},
    "letta_bridge_tokens": {"model", "type"},
    "letta_bridge_letta_request_duration_seconds": {"operation", "status"},
    "letta_bridge_lane_wait_seconds": set(),
    "letta_bridge_turn_phase_duration_seconds": {"phase"},
    "letta_bridge_turn_duration_seconds": {"outcome"},
    "letta_bridge_redis_exchange_duration_seconds": set(),
    "letta_bridge_event_loop_lag_seconds": set(),
    "letta_bridge_journalled_turns": set(),
    "letta_bridge_turns_in_flight": set(),
    "letta_bridge_redis_up": set(),
    "letta_bridge_check_ok": {"check", "required"},
    "letta_bridge_canned_answers": set(),
    "letta_bridge_sessions": {"state"},
    "letta_bridge_breaker_state": {"server", "state"},
    "letta_bridge_queue_depth": {"queue"},
    "letta_bridge_queue_waiting": {"queue"},
    "letta_bridge_queue_in_flight": {"queue"},
    "letta_bridge_queue_ready_lanes": {"queue"},
    "letta_bridge_queue_oldest_task_age_seconds": {"queue"},
    "letta_bridge_queue_dead_letters": {"queue"},
    "letta_bridge_queue_missed_turns_pending": {"queue"},
    "letta_bridge_queue_missed_turns_dropped": {"queue"},
    "letta_bridge_queue_dead_letters_dropped": {"queue"},
    "letta_bridge_queue_bridges": {"queue"},
    "letta_bridge_queue_paused": {"queue"},
    "letta_bridge_queue_held_users": {"queue"},
    "letta_bridge_queue_journal_waiting": {"queue"},
    "letta_bridge_queue_journal_oldest_age_seconds": {"queue"},
    "letta_bridge_queue_journal_dropped": {"queue"},
    "letta_bridge_redis_memory_used_bytes": {"queue"},
    "letta_bridge_redis_memory_limit_bytes": {"queue"},
    "letta_bridge_redis_saves": {"queue"},
    "letta_bridge_queue_taken": {"queue"},
    "letta_bridge_queue_redelivered": {"queue"},
    "letta_bridge_queue_restored": {"queue"},
    "letta_bridge_queue_answers_refused": {"queue"},
    "letta_bridge_queue_settled": {"outcome", "queue"},
    "letta_bridge_queue_recent_turns": {"answered_by", "queue"},
    "letta_bridge_queue_recent_failures": {"cause", "queue"},
}


async def used(metered: Metered) -> None:
    """Turns that end in every way."""
    rig = metered.rig
    rig.push("secret-task", "secret-user", "hi")
    await rig.work_off()
    rig.push("secret-task", "secret-user", "hi")
    rig.push("secret-temporary", "secret-user", "hi", meta={"memory_type": "temporary"})
    rig.push("secret-empty", "secret-user", "")
    await rig.work_off()
    rig.letta.down = True
    rig.push("secret-fallback", "secret-user", "hi")
    await rig.work_off()
    rig.fallback.down = True
    rig.push("secret-refused", "secret-user", "hi")
    await rig.work_off()


async def test_labels_are_the_listed_ones_and_hold_no_ids(metered: Metered) -> None:
    await used(metered)
    families = await metered.families()
    labels = {
        name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for name, family in families.items()
        if name.startswith("letta_bridge_")
    }
    assert labels == LABELS
    values = {value for family in families.values() for sample in family.samples for value in sample.labels.values()}
    assert not [value for value in values if "secret" in value or "agent-" in value]


async def test_every_outcome_is_counted_here_and_over_all_bridges(metered: Metered) -> None:
    await used(metered)
    samples = await metered.samples()
    expected = {"letta": 1, "repeated": 1, "memory": 2, "dead": 1, "error": 1}
    for outcome, count in expected.items():
        assert samples["letta_bridge_tasks_total", outcome] == count, outcome
        assert samples["letta_bridge_queue_settled_total", outcome, "letta_requests"] == count, outcome
        assert samples["letta_bridge_turn_duration_seconds_count", outcome] == count, outcome
    assert samples["letta_bridge_queue_taken_total", "letta_requests"] == sum(expected.values())


async def test_reasons_codes_and_phases(metered: Metered) -> None:
    await used(metered)
    samples = await metered.samples()
    assert samples["letta_bridge_fallbacks_total", "temporary"] == 1
    assert samples["letta_bridge_errors_total", "empty_content"] == 1
    assert samples["letta_bridge_letta_request_duration_seconds_count", "send", "ok"] == 1
    assert samples["letta_bridge_letta_request_duration_seconds_count", "create_agent", "ok"] == 1
    assert samples["letta_bridge_retries_total", "unavailable"] >= 1
    assert samples["letta_bridge_turn_phase_duration_seconds_count", "memory"] == 3
    assert samples["letta_bridge_turn_phase_duration_seconds_count", "settle"] == 6
    assert samples["letta_bridge_lane_wait_seconds_count",] == 6


async def test_recent_turns_and_failures_are_exported(metered: Metered) -> None:
    await used(metered)
    samples = await metered.samples()
    recent = {
        who: samples["letta_bridge_queue_recent_turns", who, "letta_requests"] for who in ("agent", "memory", "nobody")
    }
    assert recent == {"agent": 1, "memory": 1, "nobody": 1}
    causes = {name[1]: count for name, count in samples.items() if name[0] == "letta_bridge_queue_recent_failures"}
    assert sum(causes.values()) == 2


async def test_missed_turns_beyond_the_bound_are_counted(metered: Metered) -> None:
    rig = metered.rig
    rig.shelf.counters["missed_dropped"] = 7
    assert (await metered.samples())["letta_bridge_queue_missed_turns_dropped_total", "letta_requests"] == 7


async def test_missed_turns_are_pending_until_the_agent_catches_up(metered: Metered) -> None:
    rig = metered.rig
    rig.letta.down = True
    for number in range(3):
        rig.push(f"t{number}", "ada", "hi")
    await rig.work_off()
    assert (await metered.samples())["letta_bridge_queue_missed_turns_pending", "letta_requests"] == 3
    rig.letta_comes_back()
    rig.push("t9", "ada", "hi")
    await rig.work_off()
    assert (await metered.samples())["letta_bridge_queue_missed_turns_pending", "letta_requests"] == 0


async def test_a_producers_own_memory_type_is_no_label(make_metered: Callable[..., Any]) -> None:
    metered = make_metered(letta={"memory_type_routing": {"permanent": "memory-python"}})
    metered.rig.push("t1", "ada", "hi", meta={"memory_type": "made up"})
    metered.rig.push("t2", "ada", "hi")
    await metered.rig.work_off()
    samples = await metered.samples()
    assert samples["letta_bridge_fallbacks_total", "memory_type_unknown"] == 1
    assert samples["letta_bridge_fallbacks_total", "permanent"] == 1


async def test_an_open_breaker_shows(metered: Metered) -> None:
    rig = metered.rig
    rig.letta.down = True
    for number in range(4):
        rig.push(f"t{number}", f"user{number}", "hi")
    await rig.work_off()
    samples = await metered.samples()
    states = {state: samples["letta_bridge_breaker_state", "http://letta", state] for state in ("closed", "open")}
    assert states == {"closed": 0, "open": 1}


async def test_without_redis_the_rest_is_reported(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> None:
        raise RedisConnectionError

    monkeypatch.setattr(metered.queue, "status", away)
    families = await metered.families()
    assert families["letta_bridge_redis_up"].samples[0].value == 0
    assert not [name for name in families if name.startswith("letta_bridge_queue_")]
    assert "letta_bridge_tasks" in families


async def test_a_redis_that_hangs_does_not_hold_the_scrape(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metered.queue, "status", asyncio.Event().wait)
    monkeypatch.setattr("letta_bridge.telemetry.metrics.scrape._SCRAPE_TIMEOUT_SECONDS", 0.01)
    assert (await metered.samples())["letta_bridge_redis_up",] == 0


async def test_a_redis_that_answers_but_hands_out_nothing_is_not_up(metered: Any) -> None:
    metered.redis_error = "Redis is full"
    samples = await metered.samples()
    assert samples["letta_bridge_redis_up",] == 0
    assert samples["letta_bridge_queue_depth", "letta_requests"] == 0


async def test_each_health_check_is_a_sample(metered: Metered) -> None:
    samples = await metered.samples()
    assert samples["letta_bridge_check_ok", "redis", "true"] == 1
    assert samples["letta_bridge_check_ok", "journal", "false"] == 0


async def test_checks_that_hang_do_not_hold_the_scrape(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metered, "_checks", asyncio.Event().wait)
    metered.sources = replace(metered.sources, checks=metered._checks)
    monkeypatch.setattr("letta_bridge.telemetry.metrics.scrape._CHECKS_SECONDS", 0.01)
    samples = await metered.samples()
    assert samples["letta_bridge_redis_up",] == 1
    assert not [name for name, *_ in samples if name == "letta_bridge_check_ok"]


async def test_canned_answers_are_counted_and_others_are_not(metered: Metered) -> None:
    metered.rig.letta.down = True
    metered.rig.push("t1", "ada", "hi")
    await metered.rig.work_off()
    assert (await metered.samples())["letta_bridge_canned_answers_total",] == 0
    metered.rig.fallback.canned = True
    metered.rig.push("t2", "ada", "hi")
    await metered.rig.work_off()
    assert (await metered.samples())["letta_bridge_canned_answers_total",] == 1


async def test_redis_is_asked_once_a_scrape(metered: Any, monkeypatch: Any) -> None:
    asked = []
    status = metered.queue.status

    async def counting() -> Any:
        asked.append(1)
        return await status()

    monkeypatch.setattr(metered.queue, "status", counting)
    await metered.families()
    assert asked == [1]


async def test_two_bridges_in_one_process_count_for_themselves(make_metered: Callable[..., Any]) -> None:
    first, second = make_metered(), make_metered()
    first.rig.push()
    await first.rig.work_off()
    assert (await first.samples())["letta_bridge_tasks_total", "letta"] == 1
    assert (await second.samples())["letta_bridge_tasks_total", "letta"] == 0


async def test_the_process_is_measured(metered: Metered) -> None:
    assert (await metered.samples())["process_resident_memory_bytes",] > 10e6


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LettaUnavailable(busy=True), "busy"),
        (LettaUnavailable(), "unavailable"),
        (OutcomeUnknown(cause="timeout"), "timeout"),
        (LettaRejected(cause="context_overflow"), "context_overflow"),
    ],
)
async def test_a_failed_request_is_named(
    metered: Metered, error: LettaRejected | LettaUnavailable | OutcomeUnknown, status: str
) -> None:
    class Failing:
        async def health(self) -> None:
            raise error

    with pytest.raises(type(error)):
        await instrumented(Failing(), LettaMetrics(metered.metrics, "m")).health()
    assert (await metered.samples())["letta_bridge_letta_request_duration_seconds_count", "health", status] == 1


async def test_an_abandoned_request_is_counted(metered: Metered) -> None:
    class Hanging:
        async def health(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await instrumented(Hanging(), LettaMetrics(metered.metrics, "m")).health()
    assert (await metered.samples())["letta_bridge_letta_request_duration_seconds_count", "health", "abandoned"] == 1


async def test_metered_letta_hands_everything_on(metered: Metered) -> None:
    letta = instrumented(metered.rig.letta, LettaMetrics(metered.metrics, "m"))
    spec = AgentSpec("bridge-x", ("bridge", "user:u"), "m", None, "letta_v1_agent", (), ())
    agent = await letta.create_agent(spec)
    assert await letta.find_agents(["user:u"]) == [agent] == [await letta.get_agent(agent.agent_id)]
    assert (await letta.find_turns(agent.agent_id, [SoughtTurn("nothing", 0.0)])).turns[0].answer is None
    await letta.cancel(agent.agent_id, [])
    assert await letta.history(agent.agent_id) == await metered.rig.letta.history(agent.agent_id)
    assert await letta.delete_agent(agent.agent_id)
    assert await letta.health()
    await letta.close()


async def test_settlements_refused_as_taken_over_are_counted(metered: Metered) -> None:
    turn = Turn("1-1", "ada", 2, 1, 1, b"{}", queued_seconds=40.0)
    settlement = Settlement("1-1", Outcome.LETTA)
    metered.metrics.ended(turn, settlement, 1.0)
    metered.metrics.settled_and_fetched([settlement], FetchResult([False], [turn]), 0.001)
    metered.metrics.refused(settlement, Refusal.TAKEN_OVER)
    metered.metrics.lease_lost()
    metered.metrics.writes_lost()
    samples = await metered.samples()
    assert samples["letta_bridge_settlements_refused_total", "taken_over"] == 1
    assert samples["letta_bridge_settlements_refused_total", "repeated"] == 0
    assert samples["letta_bridge_leases_lost_total",] == 1
    assert samples["letta_bridge_redis_lost_writes_total",] == 1
    assert samples["letta_bridge_tasks_total", "letta"] == 0
    assert samples["letta_bridge_lane_wait_seconds_count",] == 0, "a second hand-out is no wait in the lane"
    assert not metered.metrics._ended


async def test_a_turns_whole_duration_is_wait_work_and_settling(metered: Metered) -> None:
    turn = Turn("1-1", "ada", 1, 1, 1, b"{}", queued_seconds=40.0)
    settlement = Settlement("1-1", Outcome.LETTA)
    metered.metrics.ended(turn, settlement, 20.0)
    metered.metrics.settled_and_fetched([settlement], FetchResult([True]), 0.001)
    seconds = (await metered.samples())["letta_bridge_turn_duration_seconds_sum", "letta"]
    assert 60.0 <= seconds < 61.0


async def test_tokens_are_counted_by_model(metered: Metered) -> None:
    class Counting:
        async def send(self, _agent_id: str, _messages: list[Any], *, timeout: int) -> TurnAnswer:
            return TurnAnswer("hi", usage=Usage(prompt_tokens=600, completion_tokens=7, total_tokens=607))

    letta = instrumented(Counting(), LettaMetrics(metered.metrics, "openai/m"))
    for _ in range(2):
        await letta.send("agent-1", [], timeout=1)
    samples = await metered.samples()
    tokens = [samples["letta_bridge_tokens_total", "openai/m", kind] for kind in ("prompt", "completion")]
    assert tokens == [1200, 14]


async def test_loop_lag_is_watched_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("letta_bridge.telemetry.metrics.loop_lag._EVERY_SECONDS", 0.001)
    seen = asyncio.Event()

    class Observer:
        def observe(self, amount: float) -> None:
            assert amount >= 0
            seen.set()

    async with loop_lag_watched(Observer()):
        await seen.wait()
    seen.clear()
    await asyncio.sleep(0)
    assert not seen.is_set()


async def test_a_blocked_loop_is_observed_for_each_timer_it_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """One observation of a long block among many prompt ones would be no share of them that a quantile shows."""
    monkeypatch.setattr("letta_bridge.telemetry.metrics.loop_lag._EVERY_SECONDS", 0.01)
    late, seen = [], asyncio.Event()

    class Observer:
        def observe(self, amount: float) -> None:
            if amount >= 0.01:
                late.append(amount)
            seen.set()

    async with loop_lag_watched(Observer()):
        await seen.wait()
        late.clear()
        time.sleep(0.2)  # noqa: ASYNC251  # what is tested
        seen.clear()
        await seen.wait()
    assert len(late) >= 15
    assert late == sorted(late, reverse=True)
    assert late[0] >= 0.18

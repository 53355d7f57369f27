"""States an operator has to know: made with real parts, seen by a real Prometheus, and over when they are mended."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from local_stack.fixtures import BridgeFactory, DoubleFactory, MemoryFactory
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.programs import environment, program
from local_stack.prometheus import Prometheus
from local_stack.valkey import Valkey

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("alerts")]

IMPATIENT = {"DB_CONNECTION_TIMEOUT": "1", "DB_QUERY_TIMEOUT": "1"}
JOURNAL = "{letta_requests}:journal"


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """One that may be killed."""
    server = Postgres(tmp_path / "postgres", durable=False)
    server.start()
    server.wait_ready()
    yield server
    server.kill()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``start_redis(limit_files=True)``: one of the test's own, on whose files the system may be told a limit."""
    started = []

    def start(*, limit_files: bool = False) -> Valkey:
        server = Valkey(tmp_path / "own-redis", logs=tmp_path)
        if limit_files:
            # As with a full disk a write then fails with an error, instead of the signal that ends the process.
            server._command = ["sh", "-c", f"trap '' XFSZ; exec {shlex.join(server._command)}"]
        started.append(server)
        server.start()
        server.wait_ready()
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def raised(prometheus: Prometheus, eventually: Callable[..., Any]) -> Any:
    """``raised("A", "B")``: wait until these fire; with ``over`` until none of them does."""
    return waiting(prometheus, eventually)


@pytest.fixture
def quickly_raised(quick_prometheus: Prometheus, eventually: Callable[..., Any]) -> Any:
    """As ``raised``, of the Prometheus that looks back seconds where a rule looks back minutes."""
    return waiting(quick_prometheus, eventually)


def waiting(prometheus: Any, eventually: Any) -> Callable[..., Any]:
    def wait(*names: Any, over: bool = False) -> None:
        def holds() -> Any:
            firing = prometheus.firing() & set(names)
            return not firing if over else firing == set(names)

        eventually(holds, f"{names} {'are over' if over else 'fire'}")
        assert not prometheus.broken_rules()

    return wait


def push(client: Any, *task_ids: Any) -> None:
    for task_id in task_ids:
        client.lpush("letta_requests", json.dumps({"task_id": task_id, "user_id": f"u-{task_id}", "content": "hi"}))


def test_no_bridge_at_all_is_seen_although_none_can_say_so(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    prometheus: Prometheus,
    raised: Any,
    eventually: Callable[..., Any],
) -> None:
    raised("None")
    bridge = bridge_factory(redis_url, letta_double().url)
    prometheus.discover([bridge.url])
    raised("None", over=True)
    prometheus.discover([])  # what becomes of a pod that is taken away
    eventually(lambda: not prometheus.api("targets")["activeTargets"], "the target is forgotten")
    bridge.kill()
    raised("None")
    assert "Down" not in prometheus.firing()
    bridge.start()
    prometheus.discover([bridge.url])
    raised("None", over=True)


@pytest.mark.parametrize("kind", ["killed", "read only"])
def test_a_database_that_takes_nothing_is_seen_while_turns_wait_for_it(
    kind: str,
    own_postgres: Postgres,
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    make_observer: Any,
    prometheus: Prometheus,
    raised: Any,
    eventually: Callable[..., Any],
) -> None:
    own_postgres.create_database("bridge")
    letta = letta_double()
    bridges = [bridge_factory(redis_url, letta.url, DATABASE_URL=own_postgres.url("bridge"), **IMPATIENT) for _ in "ab"]
    prometheus.discover(bridge.url for bridge in bridges)
    observer = make_observer(redis_url)
    push(observer.client, *(f"before-{number}" for number in range(10)))
    observer.wait_settled(10)
    eventually(lambda: not observer.unjournalled(), "the journal is written")
    eventually(lambda: prometheus.value("min(letta_bridge_check_ok)") == 1, "all is well")
    eventually(lambda: not prometheus.firing(), "no alarm is left of the start")
    if kind == "killed":
        own_postgres.kill()
    else:
        server_says(own_postgres, "ALTER SYSTEM SET default_transaction_read_only = on")
    push(observer.client, *(f"during-{number}" for number in range(30)))
    observer.wait_settled(40)
    raised("JournalStopped", *(["SessionsInFile", "ConsentUnsure"] if kind == "killed" else []))
    eventually(lambda: prometheus.value("max(letta_bridge_queue_journal_waiting)") == 30, "all thirty turns wait")
    # The oldest of them, as old as after an outage of a quarter of an hour.
    seconds, _ = observer.client.time()
    (_, oldest), *_ = observer.client.xrange(JOURNAL, count=1)
    observer.client.delete(JOURNAL)
    observer.client.xadd(JOURNAL, oldest, id=f"{(seconds - 900) * 1000}-0")
    raised("JournalBehind")
    assert not prometheus.firing() & {"None", "Down", "RedisAway", "LettaAway", "LettaSilent"}
    if kind == "killed":
        own_postgres.start()
        own_postgres.wait_ready()
    else:
        server_says(own_postgres, "ALTER SYSTEM RESET default_transaction_read_only")
    raised("JournalStopped", "JournalBehind", "SessionsInFile", "ConsentUnsure", over=True)
    eventually(lambda: not observer.unjournalled(), "the journal catches up")
    with psycopg.connect(own_postgres.url("bridge")) as connection:
        counted = "SELECT count(*) FROM letta_bridge.agent_messages WHERE role = 'user'"
        [(users,)] = connection.execute(counted).fetchall()
    assert users == 11
    observer.client.close()


def server_says(server: Any, statement: Any) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(statement)
        connection.execute("SELECT pg_reload_conf()")


def test_a_redis_that_fills_up_is_seen_before_it_is_full(
    start_redis: Callable[..., Any],
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    make_observer: Any,
    prometheus: Prometheus,
    raised: Any,
) -> None:
    server = start_redis()
    bridge = bridge_factory(server.url, letta_double().url)
    prometheus.discover([bridge.url])
    with redis.Redis.from_url(server.url) as client:
        client.setrange("ballast", 20_000_000, b"x")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
        raised("RedisNearlyFull")
        assert "RedisAway" not in prometheus.firing()  # there is room still
        client.delete("ballast")
        raised("RedisNearlyFull", over=True)
        client.config_set("maxmemory", "1mb")
        raised("RedisNearlyFull", "RedisAway")
        client.config_set("maxmemory", "0")
        raised("RedisNearlyFull", "RedisAway", over=True)
    observer = make_observer(server.url)
    observer.push("ada", "t1", "hi")
    assert observer.wait_for(1)[0]["source"] == "letta"
    observer.client.close()


def test_alert_fires_for_a_redis_with_a_full_disk(
    start_redis: Callable[..., Any],
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    make_observer: Any,
    prometheus: Prometheus,
    raised: Any,
) -> None:
    server = start_redis(limit_files=True)
    bridge = bridge_factory(server.url, letta_double().url)
    prometheus.discover([bridge.url])
    observer = make_observer(server.url)
    observer.push("ada", "t1", "hi")
    observer.wait_for(1)
    size = max(file.stat().st_size for file in (server.log.parent / "own-redis").rglob("*.aof"))
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    observer.push("ada", "t2", "hi")
    raised("RedisCannotSave", "RedisAway")
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    raised("RedisCannotSave", "RedisAway", over=True)
    observer.push("ada", "t3", "hi")
    assert {reply["task_id"] for reply in observer.wait_for(3)} == {"t1", "t2", "t3"}
    observer.client.close()


def test_alert_fires_for_a_silent_letta_without_turns(
    redis_url: str, letta_double: DoubleFactory, bridge_factory: BridgeFactory, prometheus: Prometheus, raised: Any
) -> None:
    letta = letta_double()
    prometheus.discover([bridge_factory(redis_url, letta.url).url])
    letta.kill()
    raised("LettaSilent")
    assert "LettaAway" not in prometheus.firing()
    letta.start()
    raised("LettaSilent", over=True)


def test_users_whom_no_model_answers_are_seen(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    make_observer: Any,
    quick_prometheus: Prometheus,
    quickly_raised: Any,
    eventually: Callable[..., Any],
) -> None:
    letta = letta_double()
    memory_factory(redis_url)  # without a model
    quick_prometheus.discover([bridge_factory(redis_url, letta.url, LETTA_RETRY_ATTEMPTS="0").url])
    quickly_raised("None", over=True)
    letta.kill()
    observer = make_observer(redis_url)
    pushed = count(1)

    def one_more_fires_it() -> bool:
        number = next(pushed)
        push(observer.client, f"t{number}")
        reply = observer.wait_for(number)[number - 1]
        assert (reply["source"], reply["canned"]) == ("memory-python", True)
        return quick_prometheus.firing() >= {"CannedAnswers", "LettaAway"}

    eventually(one_more_fires_it, "both alerts fire")
    quickly_raised("CannedAnswers", over=True)
    observer.client.close()


def test_an_expired_model_key_is_seen_although_letta_answers(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    make_observer: Any,
    prometheus: Prometheus,
    raised: Any,
    eventually: Callable[..., Any],
) -> None:
    letta = letta_double()
    memory_factory(redis_url)
    prometheus.discover([bridge_factory(redis_url, letta.url).url])
    observer = make_observer(redis_url)
    words = "OpenAI's client: Error code: 401 - {'error': {'message': 'Incorrect API key provided.'}}"
    body = {"error": {"type": "llm_authentication", "message": "Authentication failed.", "detail": words}}
    letta.fail("status", details={"code": 401, "body": body})
    push(observer.client, *(f"refused-{number}" for number in range(8)))
    assert {reply["fallback_cause"] for reply in observer.wait_for(8)} == {"model_credentials"}
    raised("AgentsNotAnswering")
    failures = 'max(letta_bridge_queue_recent_failures{cause="model_credentials"})'
    eventually(lambda: prometheus.value(failures) == 8, "all eight failures are scraped")  # the alert fires at five
    assert not prometheus.firing() & {"LettaAway", "LettaSilent"}
    letta.heal()
    push(observer.client, *(f"answered-{number}" for number in range(12)))
    observer.wait_for(20)
    raised("AgentsNotAnswering", over=True)
    observer.client.close()


def test_alert_fires_for_an_unwritable_session_file(
    redis_url: str, letta_double: DoubleFactory, bridge_factory: BridgeFactory, prometheus: Prometheus, raised: Any
) -> None:
    bridge = bridge_factory(redis_url, letta_double().url)
    prometheus.discover([bridge.url])
    raised("None", over=True)
    assert bridge.pid is not None
    # The log stays below the limit, and what SQLite writes is beyond it.
    resource.prlimit(bridge.pid, resource.RLIMIT_FSIZE, (bridge.log.stat().st_size + 16_384, resource.RLIM_INFINITY))
    raised("SessionFileUnwritable")
    resource.prlimit(bridge.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    raised("SessionFileUnwritable", over=True)


def test_alert_fires_for_a_pause_but_not_for_tasks_that_it_delays(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    make_observer: Any,
    prometheus: Prometheus,
    raised: Any,
) -> None:
    prometheus.discover([bridge_factory(redis_url, letta_double().url).url])

    def operate(command: Any) -> None:
        subprocess.run([program("letta-bridge"), command], env=environment(REDIS_URL=redis_url), check=True, timeout=60)

    operate("pause")
    observer = make_observer(redis_url)
    observer.push("ada", "t1", "hi")
    raised("Paused")
    assert "TasksNotTaken" not in prometheus.firing()
    operate("resume")
    raised("Paused", over=True)
    observer.wait_for(1)
    observer.client.close()


def test_alerts_fire_for_dead_letters_drops_and_redeliveries(
    own_postgres: Postgres,
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    make_observer: Any,
    quick_prometheus: Prometheus,
    quickly_raised: Any,
    eventually: Callable[..., Any],
) -> None:
    """The first of each is enough, and each is over when the rule does not see it any more."""
    own_postgres.create_database("bridge")
    letta = letta_double()
    memory_factory(redis_url)
    settings = IMPATIENT | {
        "DATABASE_URL": own_postgres.url("bridge"),
        "LETTA_BRIDGE_JOURNAL_BACKLOG_TURNS": "1",
        "LETTA_BRIDGE_QUEUE_MAX_MISSED_PER_USER": "1",
        "LETTA_RETRY_ATTEMPTS": "0",
        "LEASE_SECONDS": "2",
    }
    bridges = [bridge_factory(redis_url, letta.url, **settings) for _ in "ab"]
    quick_prometheus.discover(bridge.url for bridge in bridges)
    observer = make_observer(redis_url)
    push(observer.client, "before")
    observer.wait_for(1)
    eventually(lambda: quick_prometheus.value("min(letta_bridge_check_ok)") == 1, "all is well")
    assert not quick_prometheus.firing() & {"DeadLetters", "Redeliveries", "JournalDropped", "MissedTurnsDropped"}
    observer.client.lpush("letta_requests", "no JSON")
    quickly_raised("DeadLetters")
    letta.fail("hold")
    push(observer.client, "in-flight")
    # The other bridge is scraped all the time, so that the count is seen to grow.
    holder = eventually(lambda: next((one for one in bridges if observer.in_hand(one.pid)), None), "the turn begins")
    holder.kill()
    quickly_raised("Redeliveries")
    holder.start()
    letta.heal()
    own_postgres.kill()
    letta.kill()
    missed = count(1)

    def one_more_fires_both() -> bool:
        observer.push("ada", f"missed-{next(missed)}", "hi")
        return quick_prometheus.firing() >= {"JournalDropped", "MissedTurnsDropped"}

    eventually(one_more_fires_both, "both alerts fire")
    own_postgres.start()
    letta.start()
    quickly_raised("DeadLetters", "Redeliveries", "JournalDropped", "MissedTurnsDropped", over=True)
    eventually(lambda: quick_prometheus.value("count(letta_bridge_redis_up == 1)") == 2, "both are still scraped")
    observer.client.close()


def test_fallbacks_missed_turns_and_stopped_vectors_are_seen(
    postgres_url: str,
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    make_observer: Any,
    quick_prometheus: Prometheus,
    quickly_raised: Any,
    tmp_path: Path,
) -> None:
    letta = letta_double()
    embeddings = ScriptedModel(logs=tmp_path)  # never running
    memory_factory(redis_url)
    settings = {
        "DATABASE_URL": postgres_url,
        "VECTORS_ENABLED": "true",
        "EMBEDDING_BASE_URL": embeddings.url,
        "LETTA_RETRY_ATTEMPTS": "0",
        "LETTA_BRIDGE_LETTA_BREAKER_OPEN_SECONDS": "1",
    }
    quick_prometheus.discover([bridge_factory(redis_url, letta.url, **settings).url])
    observer = make_observer(redis_url)
    push(observer.client, "before")  # its turn is journalled, and waits for its embedding
    observer.wait_for(1)
    quickly_raised("VectorsStopped")
    letta.kill()
    users = [f"t{number}" for number in range(1100)]
    push(observer.client, *users)
    quickly_raised("ManyFallbacks")
    observer.wait_settled(1101)
    quickly_raised("VectorsStopped", "MissedTurns")
    observer.client.close()


def test_error_replies_are_seen(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    make_observer: Any,
    quick_prometheus: Prometheus,
    quickly_raised: Any,
    eventually: Callable[..., Any],
) -> None:
    letta = letta_double()
    settings = {"LETTA_FALLBACK": "false", "LETTA_RETRY_ATTEMPTS": "0", "REPLY_DEADLINE_SECONDS": "2"}
    # A breaker that opens would let tasks wait longer than the rule looks back here.
    bridge = bridge_factory(redis_url, letta.url, LETTA_BRIDGE_LETTA_BREAKER_FAILURES="1000", **settings)
    quick_prometheus.discover([bridge.url])
    quickly_raised("None", over=True)
    letta.kill()
    observer = make_observer(redis_url)
    numbers = count(1)

    def one_more_fires_it() -> bool:
        number = next(numbers)
        push(observer.client, f"t{number}")
        assert observer.wait_for(number)[number - 1]["status"] == "error"
        return "ErrorReplies" in quick_prometheus.firing()

    eventually(one_more_fires_it, "the alert fires")
    quickly_raised("ErrorReplies", over=True)
    observer.client.close()

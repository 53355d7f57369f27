"""A user is erased to the last copy: a canary word goes through every feature, and is looked for everywhere afterwards.

Every Redis key of every type, every table of every schema (Letta's own as well) and every file below the data
directories is read. A new kind of state that an erasure does not know fails this test, not a promise.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from letta_bridge.turn.uploads import user_folder
from local_stack.fixtures import BridgeFactory, MemoryFactory, ProxyFactory
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.services import Bridge

pytestmark = [pytest.mark.letta, pytest.mark.acceptance]

CANARY = "kanarienvogel"
LETTA = {"LETTA_TIMEOUT_SECONDS": "20", "REPLY_DEADLINE_SECONDS": "40", "FALLBACK_TIMEOUT_SECONDS": "10"}


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, socket_timeout=10) as client:
        yield client


@pytest.fixture
def person(users: Callable[..., Any]) -> str:
    """The user who is erased, with an id that needs care in JSON, in key names and in patterns."""
    return f"{users(1)[0]}:%*[é]"


def settings_of(letta: Any, scripted_model: Any, postgres_url: Any) -> dict[str, Any]:
    return {
        **LETTA,
        "DATABASE_URL": postgres_url,
        "LETTA_API_KEY": letta.api_key,
        "LETTA_MODEL": letta.model,
        "LETTA_EMBEDDING": letta.embedding,
        "VECTORS_ENABLED": "true",
        "LIMIT_TURNS_PER_MINUTE": "600",
        "LETTA_BRIDGE_LIMITS_USER_TOKENS_HARD": "100000000",
        **scripted_model.access.embedding_variables,
    }


def test_a_canary_sent_through_every_feature_is_nowhere_afterwards(  # noqa: PLR0915  # every feature, one after the other
    observe: Any,
    client: Any,
    person: str,
    users: Callable[..., Any],
    redis_url: str,
    letta: Letta,
    scripted_model: ScriptedModel,
    postgres_server: Postgres,
    postgres_url: str,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    tcp_proxy: ProxyFactory,
    command_of: Callable[..., Any],
    place_of: Any,
    until: Callable[..., Any],
    tmp_path: Path,
) -> None:
    other = users(2)[1]
    proxy = tcp_proxy(letta.url)
    variables = settings_of(letta, scripted_model, postgres_url)
    bridge = bridge_factory(redis_url, proxy.url, **variables)
    away = Bridge(tmp_path / "other-host", redis_url=redis_url, letta=letta, name="away", variables=variables)
    away.start()
    away.wait_ready()
    memory = memory_factory(redis_url, scripted_model.access, **scripted_model.access.embedding_variables)
    command = command_of(bridge)
    place = place_of(
        client,
        [postgres_url, postgres_server.url("letta")],
        [tmp_path / "bridge", tmp_path / "other-host"],
    )

    def say(user: str, task_id: str, content: str = "", **fields: Any) -> Any:
        observe.push(user, task_id, content, **fields)
        return until(lambda: kept(user, task_id), f"no reply to {task_id}")

    def kept(user: str, task_id: str) -> Any:
        escaped = user.replace("%", "%25").replace(":", "%3A")
        reply = client.get(f"{{letta_requests}}:reply:{escaped}:{task_id}")
        return json.loads(reply) if reply else None

    # Letta: messages, a fact in a block, a passage; a persona's agent; what both bridges keep in files of their own.
    assert say(person, "t1", f"my name is {CANARY} one")["source"] == "letta"
    assert say(other, "o1", "my name is Bystander")["source"] == "letta"
    headers = {"Authorization": f"Bearer {letta.api_key}"}
    agents = httpx.get(
        f"{letta.url}/v1/agents/", params={"tags": [f"user:{person}"]}, headers=headers, timeout=30
    ).json()
    passage = {"text": f"{CANARY} passage"}
    made = httpx.post(
        f"{letta.url}/v1/agents/{agents[0]['id']}/archival-memory", json=passage, headers=headers, timeout=30
    )
    assert made.is_success, made.text
    httpx.put(f"{bridge.url}/api/users/{person}/settings", json={"permanent_memory": True}, timeout=30)

    # A streamed reply of which only the beginning was heard, and an interrupt of a task that never comes.
    say(person, "s1", f"my name is {CANARY} one", meta={"stream": True})
    for task_id in ("s1", "s2"):
        heard = {"text": f"{CANARY} heard"}
        request = {"type": "interrupt", "user_id": person, "task_id": task_id, "heard": heard}
        client.lpush("letta_control", json.dumps(request))
    until(lambda: client.hlen("{letta_requests}:interrupts") == 2, "interrupts are not noted")

    # An upload, a dead letter of each kind, a task of another form of the id.
    folder = tmp_path / "bridge" / "uploads" / user_folder(person)
    for root in (folder, tmp_path / "other-host" / "uploads" / user_folder(person)):
        root.mkdir(parents=True, exist_ok=True)
        (root / "note.txt").write_text(f"{CANARY} upload")
    say(person, "t2", input_file="note.txt")
    say(person, "t3", input_file=f"../{CANARY}")
    client.lpush("letta_requests", json.dumps({"user_id": person, "content": f"{CANARY} broken", "meta": []}))
    client.lpush("letta_requests", f'{{"user_id": {json.dumps(person)}, "content": "{CANARY} cut')

    # The fallback: missed turns, short-term memory, a summary's list, an unfetched answer; memory-python's dead letter.
    proxy.refuse()
    away.pause()
    assert say(person, "t4", f"{CANARY} while Letta was away")["source"] == "memory-python"
    away.resume()
    client.lpush("user_input_queue", json.dumps({"task_id": "m1", "user_id": person, "content": f"{CANARY} direct"}))
    client.lpush("user_input_queue", json.dumps({"task_id": ["x"], "user_id": person, "content": f"{CANARY} dead"}))
    client.publish("ai_responses", json.dumps({"user_id": person, "text": f"{CANARY} said by an AI"}))
    until(lambda: client.llen("memory:{user_input_queue}:dead"), "no dead letter of memory-python")
    proxy.resume()

    # The journal and the vectors made of it; checkpoints of another program.
    until(lambda: not observe.unjournalled(), "the journal is not written")
    until(lambda: f"table letta_bridge.{vector_table(postgres_url)}" in place.holding(CANARY), "there are no vectors")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO letta_bridge.agent_checkpoints "
            "VALUES ('thread', '', '1', NULL, NULL, 'json', %s, %s, '{}', '{}', '{}', now())",
            (f"{CANARY} state".encode(), json.dumps({"user_id": person})),
        )

    # Tasks that wait, taken and untaken, on the way to memory-python and in the hands of one that died.
    memory.kill()
    command("pause")
    observe.push(person, "t5", f"{CANARY} waits")
    client.lpush("user_input_queue", json.dumps({"task_id": "m2", "user_id": person, "content": f"{CANARY} untaken"}))
    claimed = json.dumps({"task_id": "m3", "user_id": person, "content": f"{CANARY} claimed"})
    client.hset("memory:{user_input_queue}:processing:dead:1:2:ab", "1-1-dead:1:2:ab", claimed)
    client.zadd("memory:{user_input_queue}:instances", {"dead:1:2:ab": 1})
    answer = {"task_id": "t9", "user_id": person, "response_text": f"{CANARY} never fetched", "source": "memory-python"}
    client.set("{letta_requests}:fallback:999-1", json.dumps(answer))

    # The other host is down now, with all it has in its own directory.
    away.stop()
    held = place.holding(CANARY, person)
    expected = {
        "redis user_input_queue",
        "redis {letta_requests}:dead",
        "redis {letta_requests}:replies",
        f"redis {{letta_requests}}:stream:{person.replace('%', '%25').replace(':', '%3A')}:s1",
        "redis {letta_requests}:interrupts",
        "redis {letta_requests}:fallback:999-1",
        f"redis {{letta_requests}}:missed:{person}",
        f"redis memory:user_sessions:{person}",
        "redis memory:global_context",
        "redis memory:{user_input_queue}:dead",
        "redis memory:{user_input_queue}:processing:dead:1:2:ab",
        "table public.messages",
        "table public.archival_passages",
        "table public.block",
        "table public.agents_tags",
        "table letta_bridge.agent_messages",
        "table letta_bridge.agent_sessions",
        "table letta_bridge.agent_checkpoints",
        f"file uploads/{user_folder(person)}/note.txt",
    }
    assert expected <= set(held), sorted(expected - set(held))
    assert [name for name in held if name.startswith("file sessions.db")]
    # An idle bridge may have moved the waiting task on its way already.
    assert {"redis letta_requests", "redis {letta_requests}:incoming"} & set(held)
    of_other = without_files(place.holding("Bystander", other))

    code, out, err = command("user", "erase", person, "--yes", "--json", timeout=300)
    report = json.loads(out)
    assert code == 0, (report, err)
    assert report["complete"]
    assert set(report["left"].values()) == {0}
    assert report["removed"]["waiting_tasks"] == 1

    # What is down cannot have followed yet: only its own files are left, and they go when it starts.
    left = place.holding(CANARY, person)
    assert without_files(left) == set(), left
    away.start()
    away.wait_ready()
    until(lambda: place.holding(CANARY, person) == [], "the other host has not followed")
    assert without_files(place.holding("Bystander", other)) == of_other

    # And it stays so when everything runs again.
    command("resume")
    memory.start()
    memory.wait_ready()
    assert say(other, "o2", "what is my name?")["source"] == "letta"
    assert place.holding(CANARY, person) == []
    assert say(person, "t1", "what is my name?")["source"] == "letta"
    assert CANARY not in json.dumps(observe.said(person), ensure_ascii=False)
    away.stop()


def without_files(names: Any) -> set[Any]:
    """The keys and tables of these; an SQLite file moves its content between itself and its log."""
    return {name for name in names if not name.startswith("file ")}


def vector_table(url: str) -> str:
    """The table of the current model's vectors."""
    with contextlib.suppress(psycopg.Error), psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT collection, table_number FROM letta_bridge.vector_models WHERE state = 'current'"
        ).fetchone()
        if found:
            return f"{found[0]}_{found[1]}"
    return "none yet"

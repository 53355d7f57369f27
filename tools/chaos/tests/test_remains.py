"""What is left of an erased user is found wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from bridge_chaos.load import Utterance
from bridge_chaos.remains import remains_of

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("chaos")]

SAID = Utterance("用户-remains-u001", 1)


@pytest.fixture
def found(environment: Any) -> Iterator[Callable[..., Any]]:
    environment.renew()

    def places() -> list[Any]:
        return [place for place, _ in remains_of(environment, [SAID.mark])]

    assert places() == []
    yield places
    with environment.client() as client:
        client.flushall()


def test_a_message_in_any_kind_of_redis_key_is_found(environment: Any, found: Callable[..., Any]) -> None:
    escaped = json.dumps({"content": SAID.text})
    with environment.client() as client:
        client.set("a", escaped)
        client.lpush("b", escaped)
        client.hset("c", "field", SAID.text)
        client.sadd("d", SAID.text)
        client.zadd("e", {escaped: 1})
        client.xadd("f", {"reply": escaped})
        client.set(f"g:{SAID.mark}", "1")
    assert sorted(found()) == [
        *(f"the Redis key {name}" for name in "abcdef"), f"the name of the Redis key g:{SAID.mark}",
    ]  # fmt: skip


def test_a_message_in_a_table_a_file_and_an_agent_is_found(environment: Any, found: Callable[..., Any]) -> None:
    (environment.data(0) / "notes.txt").write_text(SAID.text)
    with (
        psycopg.connect(environment.postgres.url(environment.database), autocommit=True) as connection,
        environment.letta.reader() as reader,
    ):
        connection.execute("CREATE TABLE kept (content jsonb)")
        connection.execute("INSERT INTO kept VALUES (%s)", (json.dumps({"said": SAID.text}),))
        agent_id = reader.agents(["bridge"])[0]["id"]
        reader.say(agent_id, SAID.text, "x")
        assert set(found()) == {"the file notes.txt", "the table public.kept", "Letta's table messages"}
        connection.execute("DROP TABLE kept")
        reader.delete(agent_id)
    (environment.data(0) / "notes.txt").unlink()


def test_message_number_with_the_same_prefix_does_not_match(environment: Any, found: Callable[..., Any]) -> None:
    with environment.client() as client:
        client.set("a", Utterance(SAID.user, 12).text)
    assert found() == []

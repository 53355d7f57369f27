"""What was said is in the database in the end, each turn once, whatever was killed or away meanwhile."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psycopg
import pytest

from local_stack.fixtures import BridgeFactory, DoubleFactory, ProxyFactory

pytestmark = pytest.mark.acceptance
USERS = [f"user{number}" for number in range(4)]


@pytest.fixture
def letta_url(letta_double: DoubleFactory) -> Any:
    return letta_double().url


def rows(url: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT c.user_id, m.content FROM letta_bridge.agent_messages m "
            "JOIN letta_bridge.agent_conversations c ON c.id = m.conversation_id ORDER BY c.user_id, m.ordinal"
        )
        return found.fetchall()


def wait_rows(url: str, count: int) -> Any:
    deadline = time.monotonic() + 60
    while True:
        found = []
        with contextlib.suppress(psycopg.errors.UndefinedTable):  # nothing was written yet
            found = rows(url)
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} of {count} rows"
        time.sleep(0.1)


def wait_until_empty(client: Any) -> None:
    deadline = time.monotonic() + 60
    while client.xlen("{letta_requests}:journal"):
        assert time.monotonic() < deadline, "what was written is not forgotten"
        time.sleep(0.02)


def test_turns_answered_while_the_database_was_unavailable_survive_the_bridge(
    letta_url: Any,
    postgres_url: str,
    tcp_proxy: ProxyFactory,
    redis_url: str,
    bridge_factory: BridgeFactory,
    make_observer: Any,
) -> None:
    proxy = tcp_proxy(postgres_url)
    variables = {"DATABASE_URL": proxy.url, "DB_CONNECTION_TIMEOUT": "1", "DB_QUERY_TIMEOUT": "1"}
    bridge = bridge_factory(redis_url, letta_url, **variables)
    observer = make_observer(redis_url)
    observer.push_conversations(USERS, 1)
    observer.wait_settled(4)
    wait_rows(postgres_url, 8)
    wait_until_empty(observer.client)
    proxy.blackhole()
    for number in range(1, 4):
        for user in USERS:
            observer.push(user, f"{user}-{number}", f"第{number}句 from {user}")
    observer.wait_settled(16, timeout=30)
    bridge.kill()
    assert observer.client.xlen("{letta_requests}:journal") == 12
    observer.client.delete("{letta_requests}:journal_writer")  # or wait for its half minute
    proxy.resume()
    bridge_factory(redis_url, letta_url, **variables)
    expected = [
        (user, text)
        for user in USERS
        for number in range(4)
        for text in (f"第{number}句 from {user}", f"echo: 第{number}句 from {user}")
    ]
    assert wait_rows(postgres_url, len(expected)) == expected
    observer.client.close()

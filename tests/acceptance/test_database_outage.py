"""The bridge's PostgreSQL goes away under load, in every way: replies go on, and afterwards everything adds up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from local_stack.fixtures import BridgeFactory, DoubleFactory, ProxyFactory
from local_stack.postgres import Postgres

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("database-outage")]

KNOWN = [f"用户{number}" for number in range(8)]
NEW = [f"新来的{number}" for number in range(4)]
IMPATIENT = {"DB_CONNECTION_TIMEOUT": "1", "DB_QUERY_TIMEOUT": "1"}


@pytest.fixture
def letta_url(letta_double: DoubleFactory) -> Any:
    return letta_double(latency=0.05).url


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL that may be killed: nobody else's tests use it."""
    server = Postgres(tmp_path_factory.mktemp("own-postgres"), durable=False)
    server.start()
    server.wait_ready()
    yield server
    server.stop()


class Outage:
    """Ways for a database to go away, and to come back."""

    def __init__(self, server: Any, proxy: Any) -> None:
        self.server = server
        self.proxy = proxy

    def begin(self, kind: str) -> None:
        match kind:
            case "killed":
                self.server.kill()
            case "black hole":
                self.proxy.blackhole()
            case "answers lost":
                self.proxy.drop_answers()
            case "cut in the middle":
                self.proxy.cut_after(to_client=50)
            case "read only":
                self.server_says("ALTER SYSTEM SET default_transaction_read_only = on")

    def end(self, kind: str) -> None:
        if kind == "killed":
            self.server.start()
            self.server.wait_ready()
        elif kind == "read only":
            self.server_says("ALTER SYSTEM RESET default_transaction_read_only")
        self.proxy.resume()

    def server_says(self, statement: Any) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(statement)
            connection.execute("SELECT pg_reload_conf()")


def rows(url: str, statement: Any) -> Any:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def until(holds: Any, what: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def sessions_check(bridge: Any) -> Any:
    checks = httpx.get(f"{bridge.url}/readyz?verbose", timeout=10).raise_for_status().json()["checks"]
    return next(check for check in checks if check["name"] == "sessions")


@pytest.mark.parametrize("kind", ["killed", "black hole", "answers lost", "cut in the middle", "read only"])
def test_replies_continue_and_state_is_reconciled(
    kind: str,
    own_postgres: Postgres,
    letta_url: Any,
    tcp_proxy: ProxyFactory,
    redis_url: str,
    bridge_factory: BridgeFactory,
    make_observer: Any,
) -> None:
    name = f"bridge_{kind.replace(' ', '_')}"
    own_postgres.create_database(name)
    url = own_postgres.url(name)
    outage = Outage(own_postgres, tcp_proxy(url))
    bridges = [bridge_factory(redis_url, letta_url, **IMPATIENT, DATABASE_URL=outage.proxy.url) for _ in range(2)]
    observer = make_observer(redis_url)
    pushed: Counter[str] = Counter()

    def push(users: Any, count: int) -> None:
        for _ in range(count):
            for user in users:
                observer.push(user, f"{user}-{pushed[user]}", f"第{pushed[user]}句")
                pushed[user] += 1

    push(KNOWN, 3)
    observer.wait_settled(pushed.total())
    push(KNOWN, 5)
    outage.begin(kind)  # with turns in flight
    push(KNOWN + NEW, 5)
    observer.wait_settled(pushed.total(), timeout=60)
    if kind in {"killed", "black hole", "answers lost"}:
        until(lambda: any(not sessions_check(bridge)["ok"] for bridge in bridges), "no bridge says that it is degraded")
    push(KNOWN + NEW, 2)
    outage.end(kind)
    push(KNOWN + NEW, 2)
    observer.wait_settled(pushed.total(), timeout=60)

    until(lambda: not observer.client.xlen("{letta_requests}:journal"), "the journal is not written")
    until(lambda: all(sessions_check(bridge)["ok"] for bridge in bridges), "a bridge stays degraded")
    answered: dict[str, list[str]] = {user: [] for user in pushed}
    for reply in observer.replies():
        assert reply["source"] == "letta", reply
        answered[reply["user_id"]].append(reply["task_id"])
    assert answered == {user: [f"{user}-{number}" for number in range(count)] for user, count in pushed.items()}

    active = rows(url, "SELECT user_id, agent_id FROM letta_bridge.agent_sessions WHERE is_active ORDER BY user_id")
    assert [user for user, _ in active] == sorted(pushed)
    found = httpx.get(f"{letta_url}/v1/agents?tags=bridge&limit=1000", timeout=10).json()
    agents = {agent["id"]: agent["tags"] for agent in found}
    assert all(f"user:{user}" in agents[agent_id] for user, agent_id in active)
    assert len(agents) == len(active), "a user has two agents"
    said = rows(url, "SELECT content, count(*) FROM letta_bridge.agent_messages WHERE role = 'user' GROUP BY content")
    assert dict(said) == Counter(f"第{number}句" for count in pushed.values() for number in range(count))
    observer.client.close()

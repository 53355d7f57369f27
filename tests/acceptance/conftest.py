"""The outside view: what a producer pushes, what a subscriber hears, and what the agents' histories hold."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql

from letta_bridge.letta.letta_client import LettaClient
from local_stack.fixtures import missing_parts
from local_stack.letta import Letta
from local_stack.programs import program
from local_stack.prometheus import Prometheus

QUEUE = "letta_requests"
EVERYTHING = """
    SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')
"""


class Place:
    """Where to look: one Redis, some databases, some directories."""

    def __init__(self, client: Any, databases: Any, directories: Any) -> None:
        self.client = client
        self.databases = databases
        self.directories = directories

    def holding(self, *needles: Any) -> list[Any]:
        """Names of all keys, tables and files that hold one of these texts, in any of the forms they are written in."""
        forms = {form for needle in needles for form in (needle.encode(), json.dumps(needle)[1:-1].encode())}
        return sorted({*self._keys(forms), *self._tables(forms), *self._files(forms)})

    def _keys(self, forms: Any) -> Iterator[str]:
        for key in self.client.scan_iter(count=1000):
            held = [key, *self._items(key)]
            if any(form in item for form in forms for item in held):
                yield f"redis {key.decode(errors='replace')}"

    def _items(self, key: Any) -> Any:
        match self.client.type(key):
            case b"string":
                return [self.client.get(key)]
            case b"list":
                return self.client.lrange(key, 0, -1)
            case b"hash":
                return [item for pair in self.client.hgetall(key).items() for item in pair]
            case b"set":
                return list(self.client.smembers(key))
            case b"zset":
                return self.client.zrange(key, 0, -1)
            case b"stream":
                return [item for _, fields in self.client.xrange(key) for pair in fields.items() for item in pair]
        raise AssertionError(f"{key} is of a type this test does not know")

    def _tables(self, forms: Any) -> Iterator[str]:
        for url in self.databases:
            with psycopg.connect(url, autocommit=True) as connection:
                for schema, table in connection.execute(EVERYTHING).fetchall():
                    query = sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(schema, table))
                    rows = [row.encode() for (row,) in connection.execute(query)]
                    # A tuple's text doubles quotes and backslashes.
                    plain = [row.replace(b'""', b'"').replace(b"\\\\", b"\\") for row in rows]
                    if any(form in row for form in forms for row in plain):
                        yield f"table {schema}.{table}"

    def _files(self, forms: Any) -> Iterator[str]:
        for directory in self.directories:
            for path in Path(directory).rglob("*"):
                if path.is_file():
                    content = path.read_bytes()
                    if any(form in content or form in str(path).encode() for form in forms):
                        yield f"file {path.relative_to(directory)}"


class Observer:
    """A producer and a subscriber that misses nothing: it reads the replies' stream."""

    def __init__(self, redis_url: Any, letta: Any = None) -> None:
        self.client: Any = redis.Redis.from_url(redis_url, socket_timeout=10)
        self.letta = letta

    def push(self, user: str, task_id: str, content: str, **fields: Any) -> None:
        task = {"task_id": task_id, "user_id": user, "content": content, **fields}
        self.client.lpush(QUEUE, json.dumps(task, ensure_ascii=False))

    def push_conversations(self, users: Any, messages: Any) -> None:
        """Each user's messages, interleaved; the text carries user and number."""
        for number in range(messages):
            for user in users:
                self.push(user, f"{user}-{number}", f"第{number}句 from {user}")

    def replies(self) -> list[Any]:
        return [json.loads(fields[b"reply"]) for _, fields in self.client.xrange(f"{{{QUEUE}}}:replies")]

    def reply(self, user: str, task_id: str) -> Any:
        kept = self.client.get(f"{{{QUEUE}}}:reply:{user}:{task_id}")
        return json.loads(kept) if kept else None

    def wait_for(self, count: int, timeout: float = 180.0, *, until: Any = None) -> Any:
        """Block until there are so many replies (or ``until`` holds); returns them in the order they were given."""
        deadline = time.monotonic() + timeout
        last: Any = b"0"
        seen: list[Any] = []
        while len(seen) < count and not (until and until(seen)):
            assert time.monotonic() < deadline, f"{len(seen)} of {count} replies after {timeout} s"
            try:
                entries: Any = self.client.xread({f"{{{QUEUE}}}:replies": last}, block=500)
            except (redis.ConnectionError, redis.TimeoutError):
                time.sleep(0.1)
                continue
            for _, batch in entries:
                last = batch[-1][0]
                seen.extend(json.loads(fields[b"reply"]) for _, fields in batch)
        return seen

    def counters(self) -> dict[Any, int]:
        counts = self.client.hgetall(f"{{{QUEUE}}}:counters")
        return {name.decode(): int(count) for name, count in counts.items()}

    def unjournalled(self) -> Any:
        return self.client.xlen(f"{{{QUEUE}}}:journal")

    def in_hand(self, pid: Any) -> list[Any]:
        """Receipts of the turns that the bridge of this process id holds; a bridge's name ends in pid and mark."""
        records = self.client.hgetall(f"{{{QUEUE}}}:turns")
        return [receipt for receipt, record in records.items() if record.split(b"\n")[0].split(b"-")[-2] == b"%d" % pid]

    def dead(self) -> list[Any]:
        letters = self.client.lrange(f"{{{QUEUE}}}:dead", 0, -1)
        return [json.loads(letter.partition(b"\n")[0]) for letter in letters]

    def settled(self) -> Any:
        return sum(count for name, count in self.counters().items() if name.startswith("settled:"))

    def wait_settled(self, count: int, timeout: float = 180.0) -> None:
        deadline = time.monotonic() + timeout
        while self.settled() < count:
            assert time.monotonic() < deadline, f"{self.counters()} after {timeout} s, {count} settled expected"
            time.sleep(0.05)

    def said(self, *users: Any) -> Any:
        """Each user's messages as their only agent's history holds them, in order."""
        return asyncio.run(self._said(users))

    async def _said(self, users: Any) -> dict[str, Any]:
        client = LettaClient(self.letta.url, api_key=self.letta.api_key)
        try:
            said = {}
            for user in users:
                agents = await client.find_agents(["bridge", f"user:{user}"])
                assert len(agents) == 1, f"{user} has {len(agents)} agents"
                history = await client.history(agents[0].agent_id, limit=1000)
                said[user] = [
                    entry["content"]
                    for entry in history
                    if entry["message_type"] == "user_message" and not str(entry["content"]).startswith("{")
                ]
            return said
        finally:
            await client.close()

    def assert_promises_kept(self, users: Any, messages: Any, *, sources: Any = ("letta",)) -> None:
        """One reply each, each user's in order, each message once in its own agent and in no other."""
        replies = self.replies()
        by_user = defaultdict(list)
        for reply in replies:
            assert reply.get("source") in sources, reply
            by_user[reply["user_id"]].append(reply["task_id"])
        for user in users:
            assert by_user[user] == [f"{user}-{number}" for number in range(messages)], user
        assert len(replies) == len(users) * messages
        said = self.said(*users)
        for user in users:
            expected = [f"第{number}句 from {user}" for number in range(messages)]
            assert said[user] == expected, (user, Counter(said[user]) - Counter(expected))


@pytest.fixture
def make_observer() -> Any:
    """Observers without a Letta to look into."""
    return Observer


@pytest.fixture
def observe(redis_url: str, letta: Letta) -> Iterator[Observer]:
    """An observer of the real Letta behind a clean Redis."""
    observer = Observer(redis_url, letta)
    yield observer
    observer.client.close()


@pytest.fixture
def users(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Ids nobody else uses: the Letta server is shared by all tests."""
    tag = f"{request.node.name[:24]}-{time.monotonic_ns():x}"
    return lambda count: [f"用户{number}-{tag}" for number in range(count)]


@pytest.fixture
def place_of() -> Any:
    """Where a word may lie: ``place_of(redis client, database URLs, directories).holding(word)``."""
    return Place


@pytest.fixture
def command_of() -> Callable[..., Any]:
    """``command_of(bridge)(ARGUMENT, …)``: letta-bridge in that bridge's environment; exit code, output, errors."""

    def made(bridge: Any) -> Callable[..., Any]:
        def run(*arguments: Any, timeout: int = 120, **variables: Any) -> Any:
            done = subprocess.run(
                [program("letta-bridge"), *arguments],
                env={**bridge.environment, **variables},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            return done.returncode, done.stdout, done.stderr

        return run

    return made


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until a condition holds, and return what it gave: ``until(condition, "what did not happen")``."""

    def wait(condition: Any, what: Any, timeout: float = 90.0, pause: float = 0.05) -> Any:
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} after {timeout} s"
            time.sleep(pause)
        return found

    return wait


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """A running one that scrapes nothing yet."""
    with missing_parts():
        server = Prometheus(tmp_path / "prometheus")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def quick_prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """As ``prometheus``, for bridges that answer a scrape within a second; its rules look back seconds, not minutes."""
    with missing_parts():
        server = Prometheus(tmp_path / "prometheus", scrape_seconds=1, window_seconds=6)
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def eventually(until: Callable[..., Any]) -> Callable[..., Any]:
    """``eventually(holds, what)``: wait until it holds; unlike ``until`` it is told what is waited for."""

    def wait(holds: Any, what: Any, timeout: float = 120.0) -> Any:
        return until(holds, f"it did not come to pass that {what},", timeout, pause=0.2)

    return wait

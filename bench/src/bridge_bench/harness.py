"""The test bed: one Valkey, one stub Letta, and workers that start and stop."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import redis

from bridge_bench import machine
from bridge_bench.contenders import SOURCES, Contender
from bridge_bench.errors import BenchError, WorkerFailed
from bridge_bench.replies import ReplyTap
from bridge_bench.worker_side.tasks import REQUESTS
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import CHECKOUT, answers, environment
from local_stack.services import Bridge
from local_stack.valkey import Valkey
from shared_utils.persistence.session_file.tables import prepare

_WARM_SESSION: Final = (
    "INSERT INTO agent_sessions (session_id, user_id, persona, agent_id, session_data, metadata, created_at, "
    "last_updated, expires_at, version, is_active) VALUES (?, ?, 'default', ?, '{}', '{}', ?, ?, NULL, 1, 1)"
)
_LONG_AGO: Final = "2026-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Load:
    """What is worked off.

    Attributes:
        tasks: how many count.
        warm_up: how many go before them.
        users: over how many users they are spread, in turn.
        concurrency: tasks in flight at most.
    """

    tasks: int
    warm_up: int
    users: int
    concurrency: int


class Stub(Process):
    """The stub Letta.

    Args:
        logs: directory of its log.
        seconds: its latency.
        tokens_per_second: the pace of its streamed turns; 0 sends them at once.
        remember: keep turns, so that they can be found.
    """

    def __init__(self, logs: Path, seconds: float, *, tokens_per_second: float = 0.0, remember: bool = False) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.seconds = seconds
        command = [sys.executable, "-m", "bridge_bench.stub", "--port", str(self.port), "--latency", str(seconds)]
        command += ["--tokens-per-second", str(tokens_per_second)]
        super().__init__(
            "stub-letta",
            [*command, "--remember"] if remember else command,
            logs=logs,
            environment=environment(),
            ready=answers(f"{self.url}/v1/health/"),
        )

    def stats(self) -> Mapping[str, int]:
        """``turns``, ``in_flight``, and ``most_in_flight`` since the last look."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as response:  # noqa: S310 - our own stub
            stats: Mapping[str, int] = json.load(response)
        return stats


class Harness:
    """A Valkey for the whole run, and what is put on beside it.

    Args:
        data: directory of everything that is written.
        announce: told each step in a few words.
    """

    def __init__(self, data: Path, announce: Callable[[str], None] = lambda _line: None) -> None:
        self.data = data
        self.announce = announce
        self.valkey = Valkey(data / "valkey")
        if library := machine.allocator():
            self.valkey.environment = {**os.environ, "LD_PRELOAD": library}
        self._held = ExitStack()
        self._workers = 0

    def __enter__(self) -> Self:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._held.enter_context(_running(self.valkey))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @contextmanager
    def stub(self, seconds: float = 0.0, *, tokens_per_second: float = 0.0, remember: bool = False) -> Iterator[Stub]:
        """A stub Letta with that latency and pace."""
        with _running(Stub(self.data, seconds, tokens_per_second=tokens_per_second, remember=remember)) as stub:
            yield stub

    @contextmanager
    def tap(self, *, keep: bool = True) -> Iterator[ReplyTap]:
        """A subscriber that receives all replies from now on."""
        with ReplyTap(HOST, self.valkey.port, keep=keep) as tap:
            yield tap

    def empty(self) -> None:
        """Remove all data from Redis."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()

    def waiting(self) -> int:
        """Tasks that the bridge has not yet sorted into its users' lanes."""
        with redis.Redis.from_url(self.valkey.url) as client:
            return int(client.llen(REQUESTS))

    def enqueue(
        self, contender: Contender, count: int, users: int, *, first: int = 0, prefix: str = "t", rate: float = 0.0
    ) -> dict[str, float]:
        """Push tasks where the subject expects them; with a rate, returns the time of each push."""
        command = [
            str(contender.python), "-m", "bridge_bench.worker_side.enqueue", "--module", contender.producer,
            "--first", str(first), "--count", str(count), "--users", str(users), "--prefix", prefix,
            "--rate", str(rate),
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - the subject's own interpreter
            command, env=self._environment(contender), cwd=contender.cwd, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"The producer of {contender.name} failed: {done.stderr.strip()[-500:]}")
        pushed: dict[str, float] = json.loads(done.stdout) if rate else {}
        return pushed

    @contextmanager
    def worker(self, contender: Contender, letta: str, load: Load) -> Iterator[Process]:
        """Run the subject. It is killed afterwards, without regard to its remaining tasks."""
        self._workers += 1
        name = f"worker-{self._workers}"
        process = (
            self._bridge(name, letta, load) if contender.kind == "bridge" else self._other(contender, name, letta, load)
        )
        process.start()
        try:
            yield process
        except WorkerFailed as error:
            # The page says where in the checkout, not where on this machine.
            tail = process.log_tail(5).replace(f"{CHECKOUT}/", "")
            raise WorkerFailed(f"{error}; the end of its log: {tail}") from None
        finally:
            process.kill()

    @contextmanager
    def workers(self, contender: Contender, letta: str, load: Load, count: int) -> Iterator[list[Process]]:
        """Several of them on one queue."""
        with ExitStack() as held:
            yield [held.enter_context(self.worker(contender, letta, load)) for _ in range(count)]

    def settle(self) -> None:
        """Wait a moment, so that killed processes are gone."""
        self.empty()
        time.sleep(0.3)

    def _bridge(self, name: str, letta: str, load: Load) -> Bridge:
        data = self.data / f"bridge-{load.users}"
        known_agents(data / "sessions.db", load.users)
        variables: dict[str, str | None] = {
            "MAX_CONCURRENT_REQUESTS": str(load.concurrency),
            "LOG_FORMAT": "json",
            "TENANT_SHARDS": "true",  # one run after the other empties Redis, which makes another queue of it
        }
        return Bridge(data, redis_url=self.valkey.url, letta=letta, logs=self.data, name=name, variables=variables)

    def _other(self, contender: Contender, name: str, letta: str, load: Load) -> Process:
        words = [word.replace("{concurrency}", str(load.concurrency)) for word in contender.command]
        variables = self._environment(contender, BENCH_LETTA_URL=letta, BENCH_CONCURRENCY=str(load.concurrency))
        return Process(name, [contender.python, *words], logs=self.data, environment=variables, cwd=contender.cwd)

    def _environment(self, contender: Contender, **variables: str) -> dict[str, str]:
        path = f"{SOURCES}{os.pathsep}{contender.cwd}"
        redis_url = self.valkey.url
        return environment(PYTHONPATH=path, BENCH_REDIS_URL=redis_url, RQ_REDIS_URL=redis_url, **variables)


@contextmanager
def _running(process: Any) -> Iterator[Any]:
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def known_agents(file: Path, users: int) -> None:
    """Write a session file in which every user has an agent, as in a service that has run for a while."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file)
    try:
        with connection:
            prepare(connection)
            rows = [
                (f"session-{number}", f"user-{number}", f"agent-{uuid.UUID(int=number)}", _LONG_AGO, _LONG_AGO)
                for number in range(users)
            ]
            connection.executemany(_WARM_SESSION, rows)
    finally:
        connection.close()

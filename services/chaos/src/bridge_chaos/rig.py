"""The processes under test, with a TCP proxy before each server, so that a network can fail as well."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import httpx
import psycopg
from psycopg import sql
from redis import Redis, RedisCluster, RedisError
from redis.sentinel import Sentinel as SentinelClient

from letta_bridge.fail_points import VARIABLE
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.ports import HOST, free_port
from local_stack.postgres import Postgres
from local_stack.processes import Process
from local_stack.programs import answers, environment
from local_stack.proxy import TcpProxy
from local_stack.services import Bridge, Memory
from local_stack.valkey import Sentinel, Valkey

LEASE: Final = 3.0
"""Seconds; ten times shorter than by default, so that a run is."""
_P = TypeVar("_P", bound=Process)
_BRIDGES: Final = 2
_OWNER: Final = "chaos"
"""The bridges' role in PostgreSQL, and its password."""
_SETTINGS: Final[Mapping[str, str]] = {
    "LEASE_SECONDS": f"{LEASE:g}",
    "SHUTDOWN_GRACE": "5",
    "LETTA_TIMEOUT": "4",
    "REPLY_DEADLINE": "20",
    "LETTA_BRIDGE_LETTA_TURN_PATIENCE": "3",
    "FALLBACK_TIMEOUT": "8",
    "MAX_CONCURRENT_REQUESTS": "8",
    "DB_CONNECTION_TIMEOUT": "1",
    "DB_QUERY_TIMEOUT": "2",
    "TENANT_SHARDS": "true",  # between two runs Redis is emptied, which makes another queue of it, and Letta is not
}


@dataclass(frozen=True)
class Shape:
    """What the stack is made of.

    Attributes:
        real_letta: the real server with the scripted model instead of the double.
        letta_servers: how many, over one database; of doubles only.
        latency: seconds the double thinks.
        sentinel: Redis with a replica and a Sentinel.
        cluster: a Redis Cluster of two primaries, all slots at the first; nothing stands between it and its clients.
        database: the bridges have one.
        memory: memory-python runs.
        redis_options: further settings of Valkey.
        variables: further environment of the bridges.
    """

    real_letta: bool = False
    letta_servers: int = 1
    latency: float = 0.15
    sentinel: bool = False
    cluster: bool = False
    database: bool = True
    memory: bool = True
    redis_options: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


class Double(Process):
    """The double of Letta, as a process."""

    def __init__(self, file: Path, *, logs: Path, name: str, latency: float) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "bridge_chaos.letta_double", "--port", str(port), "--file", str(file)]
        super().__init__(
            name,
            [*command, "--latency", str(latency)],
            logs=logs,
            environment=environment(),
            ready=answers(f"{self.url}/v1/health/"),
        )

    def fail(self, mode: str, *, times: int, **details: float) -> None:
        """From now on the next `times` turns go wrong; see `letta_double.MODES`."""
        httpx.post(f"{self.url}/control", json={"mode": mode, "left": times, **details}).raise_for_status()

    def seen(self) -> Mapping[str, Any]:
        seen: Mapping[str, Any] = httpx.get(f"{self.url}/seen").json()
        return seen


class Lab:
    """What outlives a rig: a directory, and one PostgreSQL.

    Args:
        folder: for data and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres", durable=False)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.postgres.start()
        self.postgres.wait_ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.postgres.kill()

    def number(self) -> int:
        return next(self._numbers)

    def new_database(self, name: str) -> str:
        """A database of an ordinary role, whom limits apply to; its URL as that role."""
        self.postgres.drop_database(name)
        self.postgres.create_database(name)
        owner = sql.Identifier(_OWNER)
        with psycopg.connect(self.postgres.url(name), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_OWNER,)).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(owner, sql.Literal(_OWNER)))
            connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), owner))
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        return f"postgresql://{_OWNER}:{_OWNER}@{HOST}:{self.postgres.port}/{name}"


class Rig:
    """One stack of a shape. It outlives runs: `renew` before each.

    Args:
        lab: where it lives.
        shape: what it is made of.
    """

    redis: Valkey
    replica: Valkey | None = None
    second: Valkey | None = None
    """The Cluster's other primary."""
    sentinel: Sentinel | None = None
    letta: list[Double]
    real: Letta | None = None
    model: ScriptedModel | None = None
    memory: Memory | None = None
    bridges: list[Bridge]

    def __init__(self, lab: Lab, shape: Shape) -> None:
        self.lab = lab
        self.shape = shape
        self.postgres = lab.postgres
        self.folder = lab.folder / f"rig-{lab.number()}"
        self.database = f"chaos_{self.folder.name.replace('-', '_')}"
        self.letta = []
        self._held = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

    @property
    def first(self) -> Bridge:
        """The bridge that bridges' faults strike."""
        return self.bridges[0]

    @property
    def letta_key(self) -> str | None:
        return self.real.api_key if self.real else None

    @property
    def letta_url(self) -> str:
        """Where histories can be read, past the proxies."""
        return self.real.url if self.real else next(double.url for double in self.letta if double.running)

    def client(self) -> Redis:
        """A client of the primary, past the proxies."""
        if self.sentinel is not None:
            watcher: Any = SentinelClient([(HOST, self.sentinel.port)], socket_timeout=2)  # type: ignore[no-untyped-call]
            client: Redis = watcher.master_for("bridge", socket_timeout=5)
            return client
        if self.second is not None:
            return cast("Redis", RedisCluster(host=HOST, port=self.redis.port, socket_timeout=5))
        return Redis(host=HOST, port=self.redis.port, socket_timeout=5)

    def renew(self) -> None:
        """Heal everything, and forget what the run before left in Redis."""
        for proxy in self._proxies():
            proxy.resume()
        self._revive(self.postgres, self.redis, *self.letta, *(part for part in (self.memory, self.real) if part))
        for double in self.letta:
            double.fail("", times=0)
        for bridge in self.bridges:
            if VARIABLE in (bridge.environment or {}):
                bridge.kill()
            self.set_fail_point(bridge, None)
        with self.client() as client:
            if self.second is None:
                client.config_set("maxmemory", "0")
            client.flushall()
        self._revive(*self.bridges)

    def set_fail_point(self, bridge: Bridge, text: str | None) -> None:
        """What the bridge's next start will have; None takes it away."""
        if bridge.environment is not None:
            bridge.environment.pop(VARIABLE, None)
            if text:
                bridge.environment[VARIABLE] = text

    def restart(self, *processes: Process) -> None:
        """Kill and start, side by side."""
        for process in processes:
            process.kill()
        self._revive(*processes)

    def _revive(self, *processes: Process) -> None:
        for process in processes:
            process.resume()
            process.start()
        for process in processes:
            process.wait_ready()

    @property
    def data(self) -> Path:
        """The bridges' data directory."""
        return self.folder / "bridge"

    def _proxies(self) -> Iterator[TcpProxy]:
        yield self.to_redis
        if self.shape.database:
            yield self.to_postgres
        yield from self.to_letta

    def _start(self) -> None:
        shape = self.shape
        # A primary otherwise waits for five seconds whether more than one replica wants its data.
        sync = {"repl-diskless-sync-delay": "0"} if shape.sentinel else {}
        self.redis = self._add(
            Valkey(self.folder / "valkey", options=dict(shape.redis_options) | self._cluster_options | sync)
        )
        parts: list[Process] = [self.redis]
        if shape.cluster:
            self.second = self._add(Valkey(self.folder / "second", options=self._cluster_options, name="second"))
            parts.append(self.second)
        if shape.sentinel:
            options = {"replicaof": f"{HOST} {self.redis.port}"}
            self.replica = self._add(Valkey(self.folder / "replica", options=options, name="replica"))
            parts.append(self.replica)
        parts += self._letta_parts()
        self._revive(*parts)
        if shape.sentinel:
            self.sentinel = self._add(Sentinel(self.folder / "sentinel", self.redis))
            self._revive(self.sentinel)
        if self.second is not None:
            self._join(self.second)
        self.to_redis = self._held.enter_context(TcpProxy(self.redis.url))
        urls = [self.real.url] if self.real else [double.url for double in self.letta]
        self.to_letta = [self._held.enter_context(TcpProxy(url)) for url in urls]
        redis_url = self.sentinel.url if self.sentinel else self.to_redis.url
        if self.second is not None:
            redis_url = f"redis+cluster://{HOST}:{self.redis.port}"
        services: list[Process] = []
        if shape.memory:
            self.memory = self._add(Memory(logs=self.folder, redis_url=redis_url))
            services.append(self.memory)
        self.bridges = [self._bridge(number, redis_url) for number in range(_BRIDGES)]
        self._revive(*services, *self.bridges)

    @property
    def _cluster_options(self) -> dict[str, str]:
        if not self.shape.cluster:
            return {}
        # The cluster's own port is the server's plus 10 000 where nobody says otherwise, which may be too high.
        return {"cluster-enabled": "yes", "cluster-port": str(free_port())}

    def _join(self, second: Valkey) -> None:
        with Redis(host=HOST, port=self.redis.port) as one, Redis(host=HOST, port=second.port) as two:
            one.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            bus: Any = two.config_get("cluster-port")
            one.execute_command("CLUSTER", "MEET", HOST, second.port, bus["cluster-port"])
            for node in (one, two):
                wait_until(lambda node=node: _joined(node), 30.0)

    def _letta_parts(self) -> list[Process]:
        if self.shape.real_letta:
            locks = self._add(Valkey(self.folder / "locks", durable=False, name="valkey-locks"))
            self.model = self._add(ScriptedModel(logs=self.folder))
            self._revive(locks, self.model)
            self.real = self._add(
                Letta(
                    self.folder / "letta",
                    database_url=f"{self.postgres.url('letta')}?sslmode=disable",
                    locks=(locks.host, locks.port),
                    model=self.model.access,
                )
            )
            return [self.real]
        file = self.folder / "letta.db"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.letta = [
            self._add(Double(file, logs=self.folder, name=f"letta-{number}", latency=self.shape.latency))
            for number in range(self.shape.letta_servers)
        ]
        return list(self.letta)

    def _bridge(self, number: int, redis_url: str) -> Bridge:
        variables: dict[str, str | None] = dict(_SETTINGS)
        variables["LETTA_API_URL"] = ",".join(proxy.url for proxy in self.to_letta)
        if self.real:
            variables |= {"LETTA_API_KEY": self.real.api_key, "LETTA_MODEL": self.real.model}
            variables["LETTA_EMBEDDING"] = self.real.embedding
        if self.shape.database:
            self._database_proxy()
            variables["DATABASE_URL"] = self.to_postgres.url
        return self._add(
            Bridge(
                self.data,
                redis_url=redis_url,
                letta=self.to_letta[0].url,
                logs=self.folder,
                name=f"bridge-{number}",
                variables=variables | dict(self.shape.variables),
            )
        )

    def _database_proxy(self) -> None:
        if not hasattr(self, "to_postgres"):
            self.to_postgres = self._held.enter_context(TcpProxy(self.lab.new_database(self.database)))

    def _add(self, process: _P) -> _P:
        self._held.callback(process.kill)
        return process


def wait_until(condition: Any, timeout: float, *, pause: float = 0.02) -> bool:
    """Whether it came true within `timeout` seconds. An error counts as not yet."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(RedisError, OSError, httpx.HTTPError):
            if condition():
                return True
        time.sleep(pause)
    return False


def _joined(node: Any) -> bool:
    info: Mapping[str, str] = node.execute_command("CLUSTER INFO")
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "2")

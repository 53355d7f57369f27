"""The processes under test, with a TCP proxy in front of each server, to simulate network faults."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from redis import Redis

from bridge_chaos.foreign_memory import ForeignMemory
from bridge_chaos.letta_servers import LettaServers
from bridge_chaos.redis_servers import RedisServers
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart, revive, wait_until
from bridge_chaos.workspace import Workspace
from letta_bridge.fail_points import VARIABLE as FAIL_POINT
from local_stack.errors import StartFailed
from local_stack.models import ScriptedModel
from local_stack.processes import Process
from local_stack.programs import CONFIG
from local_stack.proxy import TcpProxy
from local_stack.services import Bridge, Memory

QUEUE: Final = "letta_requests"
CONTROL: Final = "letta_control"
"""The list of interrupts."""
LEASE_SECONDS: Final = 3.0
"""Seconds; ten times shorter than by default, so that a run is."""
PERSONA: Final = "coach"
"""The persona some users talk to beside the default one."""
_P = TypeVar("_P", bound=Process)
_BRIDGE_COUNT: Final = 2
_DIED_SECONDS: Final = 30.0
_SERVING_SECONDS: Final = 120.0
_PROBE_SECONDS: Final = 30.0
_PROBE_COUNT: Final = 4
_SETTINGS: Final[dict[str, str | None]] = {
    "LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "SHUTDOWN_GRACE_SECONDS": "5",
    "LETTA_TIMEOUT_SECONDS": "4",
    "REPLY_DEADLINE_SECONDS": "28",
    "LETTA_BRIDGE_LETTA_PREVIOUS_TURN_TIMEOUT_SECONDS": "3",
    "LETTA_BRIDGE_AGENTS_PERSONAS": json.dumps({"default": {}, PERSONA: {}}),
    "FALLBACK_TIMEOUT_SECONDS": "8",
    "MAX_CONCURRENT_REQUESTS": "8",
    "DB_CONNECTION_TIMEOUT": "1",
    "DB_QUERY_TIMEOUT": "2",
    "TENANT_SHARDS": "true",  # between two runs Redis is emptied, which makes another queue of it, and Letta is not
}


class Environment:
    """One stack of a topology. It outlives runs: `renew` before each.

    Args:
        workspace: where it lives.
        topology: what it is made of.
    """

    redis: RedisServers
    letta: LettaServers
    model: ScriptedModel | None = None
    memory: Memory | ForeignMemory | None = None
    bridges: list[Bridge]
    to_postgres: TcpProxy | None = None

    def __init__(self, workspace: Workspace, topology: Topology) -> None:
        self.workspace = workspace
        self.topology = topology
        self.postgres = workspace.postgres
        self.folder = workspace.folder / f"environment-{workspace.number()}"
        self.database = f"chaos_{self.folder.name.replace('-', '_')}"
        self._held = ExitStack()
        self._pristine: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

    def client(self) -> Redis:
        """A client of Redis's primary that bypasses the proxies; the caller closes it."""
        return self.redis.client()

    @property
    def postgres_link(self) -> TcpProxy:
        """Between the database and the bridges."""
        if self.to_postgres is None:
            raise LookupError("this environment has no database")
        return self.to_postgres

    @property
    def doors(self) -> list[str]:
        """Addresses of the bridges that serve the queue under test."""
        serving = [b for b in self.bridges if (b.environment or {}).get("LETTA_REQUESTS", QUEUE) == QUEUE]
        return [bridge.url for bridge in serving]

    def data(self, number: int) -> Path:
        """A bridge's data directory."""
        return self.folder / (f"bridge-{number}" if self.topology.own_data else "bridge")

    def config(self, number: int) -> Path:
        """A bridge's config.json, its own."""
        return self.folder / f"config-{number}.json"

    def renew(self) -> None:
        """Repair everything, and remove the previous run's data from Redis."""
        revive(self.postgres)
        if self.to_postgres is not None:
            self.to_postgres.resume()
        self.redis.heal()
        self.letta.heal()
        revive(*(part for part in (self.model, self.memory) if part))
        for number, bridge in enumerate(self.bridges):
            if self._restored(number, bridge):
                bridge.kill()
        with self.client() as client:
            if self.topology.redis != "cluster":
                client.config_set("maxmemory", "0")
            client.flushall()
        revive(*self.bridges)
        # A bridge notices within seconds that Redis has lost all choices; the database may not be broken before.
        if not wait_until(self._knows_choices, _SERVING_SECONDS):
            raise StartFailed(f"no bridge had shared all choices within {_SERVING_SECONDS:g} s of a run's beginning")
        if not wait_until(self._serves, _SERVING_SECONDS):
            raise StartFailed(f"Letta answered no turn within {_SERVING_SECONDS:g} s of a run's beginning")

    def give(self, bridge: Bridge, variables: dict[str, str]) -> None:
        """Add environment variables for a bridge's next start; `renew` removes them."""
        if bridge.environment is not None:
            bridge.environment |= variables

    def take(self, bridge: Bridge, *names: str) -> None:
        """Remove environment variables from a bridge's next start."""
        for name in names:
            if bridge.environment is not None:
                bridge.environment.pop(name, None)

    def arm(self, bridge: Bridge, point: str) -> None:
        """Let the bridge signal itself at a step of a turn after its next start; see `letta_bridge.fail_points`."""
        self.give(bridge, {FAIL_POINT: point})

    def disarm(self, bridge: Bridge) -> None:
        self.take(bridge, FAIL_POINT)

    def die_at(self, point: str, *bridges: Bridge) -> None:
        """Restart bridges so that each dies at a step of a turn, wait for that, and restart them normally."""
        for bridge in bridges:
            bridge.kill()
            self.arm(bridge, point)
        for bridge in bridges:
            bridge.start()  # it may be dead before it is ready
        wait_until(lambda: not any(bridge.running for bridge in bridges), _DIED_SECONDS)
        for bridge in bridges:
            self.disarm(bridge)
        restart(*bridges)

    def _knows_choices(self) -> bool:
        """Whether the bridge knows that a user without a choice in Redis has made none."""
        with self.client() as client:
            return bool(client.hexists(f"{{{QUEUE}}}:choices", "complete"))

    def _serves(self) -> bool:
        """Whether Letta answers users: a bridge that has just lost its data in Redis may need a moment."""
        tasks = [f"probe-{self.workspace.number()}" for _ in range(_PROBE_COUNT)]
        payloads = [json.dumps({"task_id": "0", "user_id": task, "content": "Hello."}) for task in tasks]

        def answers() -> list[bytes | None]:
            found: Any = [client.get(f"{{{QUEUE}}}:reply:{task}:0") for task in tasks]
            return list(found)

        with self.client() as client:
            client.lpush(QUEUE, *payloads)
            wait_until(lambda: all(answers()), _PROBE_SECONDS)
            return all(answer is not None and json.loads(answer).get("source") == "letta" for answer in answers())

    def _restored(self, number: int, bridge: Bridge) -> bool:
        """Restore the bridge's initial environment and configuration; whether they had been changed."""
        file = self.config(number)
        changed = not file.exists() or file.read_bytes() != CONFIG.read_bytes()
        changed = changed or bridge.environment != self._pristine[number]
        bridge.environment = dict(self._pristine[number])
        shutil.copyfile(CONFIG, file)
        return changed

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        topology = self.topology
        self.redis = RedisServers(self.folder, topology, self._held)
        if topology.real_letta or topology.memory == "model":
            self.model = self._add(ScriptedModel(logs=self.folder))
            revive(self.model)
        self.letta = LettaServers(self.folder, topology, self.postgres, self.model, self._held)
        if topology.database:
            self.to_postgres = self._held.enter_context(TcpProxy(self.workspace.new_database(self.database)))
        self.memory = self._memory()
        self.bridges = [self._bridge(number) for number in range(_BRIDGE_COUNT)]
        self._pristine = [dict(bridge.environment or {}) for bridge in self.bridges]
        revive(*([self.memory] if self.memory else []), *self.bridges)

    def _memory(self) -> Memory | ForeignMemory | None:
        if self.topology.memory == "none":
            return None
        if self.topology.memory == "foreign":
            return self._add(ForeignMemory(logs=self.folder, redis_url=self.redis.url))
        model = self.model.access if self.model and self.topology.memory == "model" else None
        return self._add(Memory(logs=self.folder, redis_url=self.redis.url, model=model))

    def _bridge(self, number: int) -> Bridge:
        shutil.copyfile(CONFIG, self.config(number))
        variables = _SETTINGS | self.letta.variables | {"LETTA_BRIDGE_CONFIG": str(self.config(number))}
        if self.to_postgres is not None:
            variables["DATABASE_URL"] = self.to_postgres.url
        variables |= dict(self.topology.variables) | dict(self.topology.uneven if number else ())
        return self._add(
            Bridge(
                self.data(number),
                redis_url=self.redis.url,
                letta=self.letta.link.url,
                logs=self.folder,
                name=f"bridge-{number}",
                variables=variables,
            )
        )

    def _add(self, process: _P) -> _P:
        self._held.callback(process.kill)
        return process

"""Turns of a real Letta and what they cost: CPU of Letta and of PostgreSQL, and connections to the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from bridge_bench.callers import Callers
from bridge_bench.runs import Sample
from bridge_bench.usage import cpu_seconds
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.processes import Process
from local_stack.valkey import Valkey

AGENTS: Final = 8


@dataclass(frozen=True)
class NamedLetta:
    """A Letta server under the name of its row."""

    name: str
    letta: Letta


@dataclass(frozen=True)
class Parts:
    """What a Letta server needs, running."""

    postgres: Postgres
    locks: Valkey
    model: ScriptedModel
    held: ExitStack

    def letta(self, data: Path, **variables: str) -> Letta:
        """Start a letta-server with a database of its own; it ends with the parts."""
        letta = Letta(
            data,
            database_url=self.postgres.url(data.name.replace("-", "_")),
            locks=(self.locks.host, self.locks.port),
            model=self.model.access,
        )
        letta.environment = (letta.environment or {}) | variables
        started(self.held, letta)
        return letta

    def calls(self) -> dict[str, Any]:
        """The model's report of its calls, with the last one."""
        report: dict[str, Any] = httpx.get(f"{self.model.base_url}/control/calls", params={"last": 1}).json()
        return report


@contextmanager
def parts(data: Path) -> Iterator[Parts]:
    """PostgreSQL that does not wait for its disk, a Valkey for locks, and the scripted model."""
    with ExitStack() as held:
        found = Parts(
            Postgres(data / "postgres", durable=False),
            Valkey(data / "locks", durable=False, name="valkey-locks"),
            ScriptedModel(logs=data),
            held,
        )
        for process in (found.postgres, found.locks, found.model):
            started(held, process)
        yield found


def started(held: ExitStack, process: Process) -> None:
    """Start a process, which ends with ``held``, and wait until it is ready."""
    held.callback(process.stop)
    process.start()
    process.wait_ready()


def measured(found: Parts, letta: Letta, turns: int, *, history: int, streamed: bool = False) -> Sample:
    """So many turns of each of :data:`AGENTS` new agents, all at once; their first turns do not count.

    Args:
        found: what the server uses.
        letta: the server.
        turns: of each agent.
        history: turns in the agents' context.
        streamed: the turns come token by token.
    """
    callers = Callers(letta.url, letta.model, letta.api_key)
    agents = callers.new_agents(AGENTS, history=history)
    callers.talk(agents, 1)
    processes = (letta, found.postgres)
    before = [_used(process) for process in processes]
    connections = found.calls()["connections"]
    began = time.monotonic()
    taken = callers.talk(agents, turns, streamed=streamed)
    seconds = time.monotonic() - began
    cpu = [(_used(process) - used) * 1000 / len(taken) for process, used in zip(processes, before, strict=True)]
    after = found.calls()
    return {
        "turns_per_second": len(taken) / seconds,
        "cpu_ms": cpu[0],
        "database_cpu_ms": cpu[1],
        "connections": (after["connections"] - connections) * 100 / len(taken),
        "messages": float(after["last"][-1]["messages"]),
    }


def _used(process: Process) -> float:
    return cpu_seconds(process.pid or 0)

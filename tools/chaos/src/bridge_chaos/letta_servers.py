"""Letta under test: the double, several over one file, or the real server with the scripted model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from bridge_chaos.letta_gate import LettaGate
from bridge_chaos.letta_reader import LettaReader
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import revive, wait_until
from local_stack.letta import Letta
from local_stack.letta_double.process import Dialled, LettaDouble
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.processes import Process
from local_stack.proxy import TcpProxy
from local_stack.valkey import Valkey

_P = TypeVar("_P", bound=Process)


class LettaServers:
    """The servers of one environment, a proxy before each.

    Args:
        folder: for their data.
        topology: which of them there are.
        postgres: what the real one lies on.
        model: what the real one thinks with.
        held: ends them with the environment.
    """

    real: Letta | None = None
    gate: LettaGate | None = None
    """Between the real one and its proxy."""

    def __init__(
        self, folder: Path, topology: Topology, postgres: Postgres, model: ScriptedModel | None, held: ExitStack
    ) -> None:
        self._held = held
        self.doubles: list[LettaDouble] = []
        self.file = folder / "letta.db"
        """What the doubles remember."""
        if topology.real_letta and model is not None:
            self.real = self._real(folder, postgres, model)
        else:
            self.doubles = [
                self._add(LettaDouble(self.file, logs=folder, name=f"letta-{number}", latency=topology.latency))
                for number in range(topology.letta_servers)
            ]
        revive(*self._processes)
        if self.real is not None:
            self.gate = self._add(LettaGate(self.real.url, logs=folder))
            revive(self.gate)
        urls = [self.gate.url] if self.gate else [double.url for double in self.doubles]
        self.links = [held.enter_context(TcpProxy(url)) for url in urls]

    @property
    def double(self) -> LettaDouble:
        """The first double."""
        return self.doubles[0]

    @property
    def link(self) -> TcpProxy:
        """Between the first server and the bridges."""
        return self.links[0]

    @property
    def variables(self) -> dict[str, str | None]:
        """The environment with which bridges find the servers."""
        urls = {"LETTA_API_URL": ",".join(link.url for link in self.links), "LETTA_API_KEY": None}
        if self.real is None:
            return dict(urls)
        access = {"LETTA_API_KEY": self.real.api_key, "LETTA_MODEL": self.real.model}
        return {**urls, **access, "LETTA_EMBEDDING": self.real.embedding}

    def reader(self) -> LettaReader:
        """A reader of agents and histories that bypasses the proxies; the caller closes it."""
        if self.real is not None:
            return LettaReader(self.real.url, self.real.api_key)
        return LettaReader(next(double.url for double in self.doubles if double.running))

    def overlaps(self) -> list[str]:
        """The agent of each turn that overlapped with another turn of the same agent; only for doubles."""
        return list(self.double.seen()["overlaps"]) if self.doubles else []

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no double processes a turn: turns that a bridge has given up may be stored late."""
        return not self.doubles or wait_until(lambda: not self.double.seen()["at_work"], timeout, pause=0.1)

    def heal(self) -> None:
        """Start stopped servers, restore the network, and remove faults."""
        revive(*self._processes)
        for link in self.links:
            link.resume()
        for server in self._dialled:
            server.heal()

    def kill_and_restart(self, server: Process, *, away: float = 0.0) -> None:
        """SIGKILL a server and start it again; until it serves, nobody listens at its address, as without a proxy.

        Args:
            server: the real one, or a double.
            away: seconds between the two.
        """
        link = self.links[self.doubles.index(server) if isinstance(server, LettaDouble) else 0]
        link.refuse()  # first: a bridge asks who listens as soon as it loses a connection
        server.kill()
        time.sleep(away)
        revive(server)
        link.resume()

    @property
    def dialled(self) -> Dialled:
        """The server that accepts faults: the first double, or the gate in front of the real one."""
        return self._dialled[0]

    @property
    def _dialled(self) -> Sequence[Dialled]:
        return [self.gate] if self.gate else self.doubles

    @property
    def _processes(self) -> list[Process]:
        return [*self.doubles, *(part for part in (self.real, self.gate) if part)]

    def _real(self, folder: Path, postgres: Postgres, model: ScriptedModel) -> Letta:
        return real_letta(folder, f"letta_{folder.name.replace('-', '_')}", postgres, model, self._held)

    def _add(self, process: _P) -> _P:
        self._held.callback(process.kill)
        return process


def real_letta(folder: Path, database: str, postgres: Postgres, model: ScriptedModel, held: ExitStack) -> Letta:
    """A real Letta with a database of that name, and its own Redis for its locks; not started."""
    locks = Valkey(folder / f"{database}-locks", durable=False, name="valkey-locks")
    held.callback(locks.kill)
    revive(locks)
    letta = Letta(
        folder / database,
        database_url=f"{postgres.url(database)}?sslmode=disable",
        locks=(locks.host, locks.port),
        model=model.access,
    )
    held.callback(letta.kill)
    return letta

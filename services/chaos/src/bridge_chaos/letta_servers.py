"""Letta under test: the double, several over one file, or the real server with the scripted model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from bridge_chaos.letta_double import LettaDouble
from bridge_chaos.letta_reader import LettaReader
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import revive
from local_stack.letta import Letta
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
        urls = [self.real.url] if self.real else [double.url for double in self.doubles]
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
        """Where bridges find them."""
        urls = {"LETTA_API_URL": ",".join(link.url for link in self.links), "LETTA_API_KEY": None}
        if self.real is None:
            return dict(urls)
        access = {"LETTA_API_KEY": self.real.api_key, "LETTA_MODEL": self.real.model}
        return {**urls, **access, "LETTA_EMBEDDING": self.real.embedding}

    def reader(self) -> LettaReader:
        """Reads agents and histories, past the proxies. Close it."""
        if self.real is not None:
            return LettaReader(self.real.url, self.real.api_key)
        return LettaReader(next(double.url for double in self.doubles if double.running))

    def overlaps(self) -> list[str]:
        """The agent of each turn that began beside another one of the same agent; of doubles only."""
        return list(self.double.seen()["overlaps"]) if self.doubles else []

    def heal(self) -> None:
        """Start what is down, let bytes pass, and take faults back."""
        revive(*self._processes)
        for link in self.links:
            link.resume()
        for double in self.doubles:
            double.heal()

    @property
    def _processes(self) -> list[Process]:
        return [*self.doubles, *([self.real] if self.real else [])]

    def _real(self, folder: Path, postgres: Postgres, model: ScriptedModel) -> Letta:
        locks = self._add(Valkey(folder / "locks", durable=False, name="valkey-locks"))
        revive(locks)
        url = f"{postgres.url('letta')}?sslmode=disable"
        return self._add(Letta(folder / "letta", database_url=url, locks=(locks.host, locks.port), model=model.access))

    def _add(self, process: _P) -> _P:
        self._held.callback(process.kill)
        return process

"""A second, empty installation for restoring a backup: a real Letta, a database and a data directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bridge_chaos.environment import Environment
from bridge_chaos.letta_gate import LettaGate
from bridge_chaos.letta_reader import LettaReader
from bridge_chaos.letta_servers import real_letta
from bridge_chaos.waiting import revive
from local_stack.letta import Letta


@dataclass(frozen=True)
class EmptyPlace:
    """Where it is.

    Attributes:
        variables: environment by which a command finds it.
        letta: its server.
        gate: stands before the server and loses connections on demand.
    """

    variables: Mapping[str, str]
    letta: Letta
    gate: LettaGate

    def reader(self) -> LettaReader:
        """Returns a reader of the restored agents, which the caller closes."""
        return LettaReader(self.letta.url, self.letta.api_key)


@contextmanager
def empty_place(environment: Environment) -> Iterator[EmptyPlace]:
    """One made for the moment, beside an environment with a real Letta and a database.

    Raises:
        LookupError: the environment has no model for a real Letta.
    """
    if environment.model is None:
        raise LookupError("this environment has no model for a Letta to restore to")
    name = f"place_{environment.workspace.number()}"
    folder = environment.folder / name
    folder.mkdir(parents=True)
    with ExitStack() as held:
        letta = real_letta(folder, f"letta_{name}", environment.postgres, environment.model, held)
        gate = LettaGate(letta.url, logs=folder)
        held.callback(gate.kill)
        revive(letta, gate)
        variables = {
            "LETTA_API_URL": gate.url,
            "LETTA_API_KEY": letta.api_key,
            "DATA_DIR": str(folder),
            "DATABASE_URL": environment.workspace.new_database(f"chaos_{name}"),
        }
        yield EmptyPlace(variables, letta, gate)

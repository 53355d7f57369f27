"""A second, empty place to restore a backup to: a Letta, a database and a data directory of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bridge_chaos.environment import Environment
from bridge_chaos.letta_double import LettaDouble
from bridge_chaos.letta_reader import LettaReader
from bridge_chaos.waiting import revive


@dataclass(frozen=True)
class EmptyPlace:
    """Where it is: the variables a command finds it by, and its Letta."""

    variables: Mapping[str, str]
    letta: LettaDouble

    def reader(self) -> LettaReader:
        """Reads what was restored. Close it."""
        return LettaReader(self.letta.url)


@contextmanager
def empty_place(environment: Environment) -> Iterator[EmptyPlace]:
    """Made for the moment, beside an environment with a double of Letta."""
    number = environment.workspace.number()
    folder = environment.folder / f"place-{number}"
    folder.mkdir(parents=True)
    letta = LettaDouble(folder / "letta.db", logs=folder, name="letta", latency=environment.topology.latency)
    variables = {"LETTA_API_URL": letta.url, "DATA_DIR": str(folder)}
    if environment.topology.database:
        variables["DATABASE_URL"] = environment.workspace.new_database(f"chaos_place_{number}")
    try:
        revive(letta)
        yield EmptyPlace(variables, letta)
    finally:
        letta.kill()

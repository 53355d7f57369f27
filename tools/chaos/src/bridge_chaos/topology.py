"""The parts of a stack under test."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

Variables = tuple[tuple[str, str], ...]
"""Names and values, as a hashable dictionary."""


@dataclass(frozen=True)
class Topology:
    """The parts of one stack.

    Attributes:
        real_letta: the real server with the scripted model instead of the double.
        letta_servers: how many, over one database; of doubles only.
        latency: seconds the double needs for a step.
        redis: one server, a primary with a replica and a Sentinel, or a Cluster of two primaries.
        append_only: Redis writes an append-only file; without one it has only the snapshots somebody asks for.
        database: the bridges have one.
        memory: which memory-python answers while Letta cannot: this project's own with a model, without one (a plain
            sentence answers), somebody else's, or none.
        own_data: each bridge has a data directory of its own.
        redis_options: further settings of Valkey.
        variables: further environment of both bridges.
        uneven: further environment of the second bridge alone.
    """

    real_letta: bool = False
    letta_servers: int = 1
    latency: float = 0.15
    redis: Literal["single", "sentinel", "cluster"] = "single"
    append_only: bool = True
    database: bool = True
    memory: Literal["model", "plain", "foreign", "none"] = "model"
    own_data: bool = False
    redis_options: Variables = ()
    variables: Variables = ()
    uneven: Variables = ()

    @property
    def parts(self) -> frozenset[str]:
        """The parts that faults can affect; the words are those of :attr:`bridge_chaos.fault.Fault.occupies`."""
        parts = {"bridge", "bridges", "data", "redis", f"redis-{self.redis}", "letta", "letta-link", "operator"}
        if self.real_letta:
            parts |= {"real-letta", "letta-model", "letta-gate"}
        else:
            parts |= {"letta-double", "letta-turns", "letta-calls"}
        if self.database:
            parts |= {"postgres", "postgres-link"}
        if self.redis == "single":
            parts |= {"redis-link"}
        if self.memory != "none":
            parts |= {"memory", f"memory-{self.memory}"}
        return frozenset(parts)

    @property
    def hands_out_once(self) -> bool:
        """Whether a task that its bridge loses becomes a dead letter instead of being taken over."""
        return any(name.endswith("MAX_DELIVERIES") for name, _ in self.variables)

    def merged(self, other: Topology) -> Topology | None:
        """A topology that satisfies both; None if they contradict each other. Defaults yield."""
        merged: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, tuple):
                both = dict(mine) | dict(theirs)
                if any(dict(theirs).get(name, value) != value for name, value in mine):
                    return None
                merged[field.name] = tuple(sorted(both.items()))
            elif theirs in (mine, field.default):
                merged[field.name] = mine
            elif field.default is not MISSING and mine == field.default:
                merged[field.name] = theirs
            else:
                return None
        return Topology(**merged)

"""The scenario of one run: one fault, or two at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Final

from bridge_chaos.fault import Fault, parts
from bridge_chaos.load import Load
from bridge_chaos.topology import Topology

_PAIR_LOAD: Final = Load(users=12, messages=8, seconds=6.0)
_MAX_DRAWS: Final = 10_000
_BRIDGES: Final = parts("bridge", "bridges")


class Phase(StrEnum):
    """When the second fault of a pair strikes."""

    TOGETHER = "together"
    """At the moment the first one strikes."""
    DURING = "during"
    """A little later, while the first one lasts."""
    RECOVERY = "recovery"
    """Once the first one's cause is mended, while the stack recovers from it."""


@dataclass(frozen=True)
class Scenario:
    """One or two faults, with all that a run of them needs.

    Attributes:
        first: strikes first.
        second: strikes second; None where there is one fault only.
        phase: when the second one strikes.
    """

    first: Fault
    second: Fault | None = None
    phase: Phase = Phase.TOGETHER

    @property
    def name(self) -> str:
        return self.first.name if self.second is None else f"{self.first.name}+{self.second.name}@{self.phase}"

    @property
    def faults(self) -> tuple[Fault, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def topology(self) -> Topology:
        """The stack it needs.

        Raises:
            ValueError: the two faults need different ones.
        """
        merged = self.first.topology if self.second is None else self.first.topology.merged(self.second.topology)
        if merged is None:
            raise ValueError(f"{self.name}: the two faults need different stacks")
        return merged

    @property
    def load(self) -> Load:
        """How much is said: in a pair more, so that both find something to strike."""
        if self.second is None:
            return self.first.load
        return self.first.load.merged(self.second.load).merged(_PAIR_LOAD)

    @property
    def patience(self) -> float:
        return sum(fault.patience for fault in self.faults)

    def command(self, seed: int) -> str:
        """The command that repeats this run."""
        option = f"--fault {self.first.name}" if self.second is None else f"--pair {self.name}"
        return f"./run chaos {option} --seed {seed}"

    def problem(self) -> str | None:
        """Why these two faults cannot be combined; None if they can."""
        if self.second is None:
            return None
        one, two = self.first, self.second
        topology = one.topology.merged(two.topology)
        if one.alone or two.alone:
            return "one of them runs only alone"
        if topology is None or not one.occupies | two.occupies | one.needs | two.needs <= topology.parts:
            return "they need different stacks"
        if topology.hands_out_once and all(fault.occupies & _BRIDGES for fault in (one, two)):
            return "one of them limits tasks to one hand-out, and the other causes further hand-outs"
        if self.phase is not Phase.RECOVERY and (clash := _clash(one, two) | _clash(two, one)):
            return f"both affect {', '.join(sorted(clash))} at once"
        return None


def _clash(one: Fault, two: Fault) -> set[str]:
    """What `one` changes and `two` changes or needs. Each gets its own bridge, unless one of them affects both."""
    shared = set(one.occupies & (two.occupies | two.needs)) - {"bridge"}
    if "bridges" in one.occupies and "bridge" in two.occupies | two.needs:
        shared.add("bridges")
    return shared


def drawn_pairs(faults: Sequence[Fault], count: int, seed: int) -> list[Scenario]:
    """This many different pairs that are possible, the same ones for the same seed."""
    random = Random(f"pairs-{seed}")  # noqa: S311 - the same choice for the same seed
    found: dict[str, Scenario] = {}
    for _ in range(_MAX_DRAWS):
        if len(found) == count:
            break
        first, second = random.choice(faults), random.choice(faults)
        pair = Scenario(first, second, random.choice(list(Phase)))
        if pair.problem() is None:
            found.setdefault(pair.name, pair)
    return list(found.values())


def scenario_of(name: str, faults: Mapping[str, Fault]) -> Scenario | None:
    """The scenario that `Scenario.name` names, also where a pair is not possible any more; None where there is none."""
    names, _, phase = name.partition("@")
    first, plus, second = names.partition("+")
    if not plus:
        return Scenario(faults[name]) if name in faults else None
    if first not in faults or second not in faults or phase not in set(Phase):
        return None
    return Scenario(faults[first], faults[second], Phase(phase))


def named_pair(text: str, faults: Mapping[str, Fault]) -> Scenario:
    """The pair that `Scenario.name` names.

    Raises:
        ValueError: it names none, or one that is not possible.
    """
    pair = scenario_of(text, faults)
    if pair is None or pair.second is None:
        raise ValueError(f"{text!r} is not a pair; write first/fault+second/fault@{'|'.join(Phase)}")
    if problem := pair.problem():
        raise ValueError(f"{text!r} is not possible: {problem}")
    return pair


def with_load(scenario: Scenario, load: Load) -> Scenario:
    """The same scenario with another load; only for a single fault."""
    return replace(scenario, first=replace(scenario.first, load=load))

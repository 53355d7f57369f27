"""A campaign: runs each scenario at least once, and repeats them while there is time."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from random import Random

from bridge_chaos.environment import Environment
from bridge_chaos.promises import Finding, Verdict
from bridge_chaos.provenance import commit, machine
from bridge_chaos.runner import Run, run_once
from bridge_chaos.scenario import Scenario
from bridge_chaos.topology import Topology
from bridge_chaos.workspace import Workspace


class Campaign:
    """Runs over environments that are shared as far as topologies allow.

    Args:
        workspace: where the environments live.
        scenarios: what to try.
        seed: of the first round; each further round has the next one.
        tell: hears of each run as it ends.
        is_known: tells of a scenario's name and a seed whether there is a result of them already.
    """

    def __init__(
        self,
        workspace: Workspace,
        scenarios: Sequence[Scenario],
        seed: int,
        tell: Callable[[Run], None],
        is_known: Callable[[str, int], bool] = lambda _name, _seed: False,
    ) -> None:
        self._workspace = workspace
        self._seed = seed
        self._tell = tell
        self._is_known = is_known
        self.skipped: dict[str, str] = {}
        """Scenario → what this machine lacks for it."""
        self._scenarios = [scenario for scenario in scenarios if not self._skip(scenario)]

    @property
    def planned(self) -> int:
        """How many runs the first round makes."""
        return sum(not self._is_known(scenario.name, self._seed) for scenario in self._scenarios)

    def run(self, minutes: float | None) -> None:
        """Run every scenario once; or, with `minutes`, round after round in random order until the time is over."""
        if minutes is None:
            self._round(0, float("inf"))
            return
        until = time.monotonic() + 60 * minutes
        for number in itertools.count():
            if time.monotonic() > until:
                return
            Random(self._seed + number).shuffle(self._scenarios)  # noqa: S311 - the same order for the same seed
            self._round(number, until)

    def _round(self, number: int, until: float) -> None:
        seed = self._seed + number
        for topology, scenarios in self._by_topology():
            waiting = deque(scenario for scenario in scenarios if not self._is_known(scenario.name, seed))
            while waiting and time.monotonic() < until:
                self._in_one_environment(topology, waiting, seed, until)

    def _in_one_environment(self, topology: Topology, waiting: deque[Scenario], seed: int, until: float) -> None:
        """Run the waiting scenarios; an aborted run discards its environment."""
        environment: Environment | None = None
        with ExitStack() as held:
            while waiting and time.monotonic() < until:
                scenario = waiting.popleft()
                began, made_with = time.monotonic(), commit()
                try:
                    environment = environment or held.enter_context(Environment(self._workspace, topology))
                    run = run_once(environment, scenario, seed)
                except Exception as error:  # noqa: BLE001 - the others are to be tried all the same
                    verdict = Verdict(findings=[Finding("accounts", f"the run was aborted: {_first_line(error)}")])
                    run = Run(scenario, seed, False, verdict, seconds=time.monotonic() - began)
                    environment = None
                run.commit, run.machine = made_with, machine()
                self._tell(run)
                if environment is None:
                    return

    def _by_topology(self) -> list[tuple[Topology, list[Scenario]]]:
        groups: dict[Topology, list[Scenario]] = {}
        for scenario in self._scenarios:
            groups.setdefault(scenario.topology, []).append(scenario)
        return list(groups.items())

    def _skip(self, scenario: Scenario) -> bool:
        """Note what this machine lacks for the scenario; False if it lacks nothing."""
        reasons = [reason for fault in scenario.faults if (reason := fault.missing())]
        if reasons:
            self.skipped[scenario.name] = reasons[0]
        return bool(reasons)


def totals(runs: Sequence[Run]) -> Counter[str]:
    """Promise → how often it was broken outside the windows."""
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.broken)
    return counts


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

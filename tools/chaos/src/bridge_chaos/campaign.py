"""Many runs: each scenario at least once, then over again while there is time."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from random import Random

from bridge_chaos.environment import Environment
from bridge_chaos.promises import Finding, Verdict
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
    """

    def __init__(
        self, workspace: Workspace, scenarios: Sequence[Scenario], seed: int, tell: Callable[[Run], None]
    ) -> None:
        self._workspace = workspace
        self._scenarios = list(scenarios)
        self._seed = seed
        self._tell = tell
        self.runs: list[Run] = []
        self.skipped: dict[str, str] = {}
        """Scenario → what this machine lacks for it."""

    def run(self, minutes: float | None) -> None:
        """Every scenario once; or round after round, each in another order, as long as one begins within `minutes`."""
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
        for topology, scenarios in self._by_topology():
            waiting = deque(scenarios)
            while waiting and time.monotonic() < until:
                self._in_one_environment(topology, waiting, self._seed + number, until)

    def _in_one_environment(self, topology: Topology, waiting: deque[Scenario], seed: int, until: float) -> None:
        """Run what waits; a run that breaks off takes its environment with it."""
        environment: Environment | None = None
        with ExitStack() as held:
            while waiting and time.monotonic() < until:
                scenario = waiting.popleft()
                began = time.monotonic()
                try:
                    environment = environment or held.enter_context(Environment(self._workspace, topology))
                    self._add(run_once(environment, scenario, seed))
                except Exception as error:  # noqa: BLE001 - the others are to be tried all the same
                    verdict = Verdict(findings=[Finding("accounts", f"the run broke off: {_first_line(error)}")])
                    self._add(Run(scenario, seed, False, verdict, seconds=time.monotonic() - began))
                    return

    def _by_topology(self) -> list[tuple[Topology, list[Scenario]]]:
        groups: dict[Topology, list[Scenario]] = {}
        for scenario in self._scenarios:
            reasons = [reason for fault in scenario.faults if (reason := fault.missing())]
            if reasons:
                self.skipped[scenario.name] = reasons[0]
            else:
                groups.setdefault(scenario.topology, []).append(scenario)
        return list(groups.items())

    def _add(self, run: Run) -> None:
        self.runs.append(run)
        self._tell(run)


def totals(runs: Sequence[Run]) -> Counter[str]:
    """Promise → how often it was broken outside the windows."""
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.broken)
    return counts


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

"""Runs over environments: one that breaks off counts as broken, and the others are tried all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bridge_chaos import campaign
from bridge_chaos.campaign import Campaign
from bridge_chaos.fault import Fault
from bridge_chaos.promises import Verdict
from bridge_chaos.runner import Run
from bridge_chaos.scenario import Scenario
from local_stack.errors import StartFailed


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`told(starts, runs)`: what a campaign over the faults a, b and c tells; None in either list is a success."""

    def run(starts: Any, runs: Any) -> Any:
        class Environment:
            def __init__(self, _workspace: Any, _topology: Any) -> None:
                pass

            def __enter__(self) -> Any:
                raise_if(starts.pop(0))
                return self

            def __exit__(self, *_: object) -> None:
                pass

        def run_once(_environment: Any, scenario: Any, seed: int) -> Run:
            raise_if(runs.pop(0))
            return Run(scenario, seed, True, Verdict())

        monkeypatch.setattr(campaign, "Environment", Environment)
        monkeypatch.setattr(campaign, "run_once", run_once)
        scenarios = [Scenario(Fault(name, name, lambda _context: None)) for name in "abc"]
        lines = []
        workspace: Any = None  # what would use it is replaced
        Campaign(workspace, scenarios, 1, lambda run: lines.append((run.name, texts(run)))).run(None)
        assert starts == runs == []
        return lines

    return run


def raise_if(error: Any) -> None:
    if error is not None:
        raise error


def texts(run: Any) -> Any:
    return [finding.text for finding in run.verdict.findings]


def test_a_run_that_breaks_off_takes_its_environment_with_it(told: Callable[..., Any]) -> None:
    assert told([None, None], [None, RuntimeError("no\nmore"), None]) == [
        ("a", []),
        ("b", ["the run was aborted: RuntimeError: no"]),
        ("c", []),
    ]


def test_an_environment_that_does_not_start_breaks_one_run(told: Callable[..., Any]) -> None:
    assert told([StartFailed("no"), None], [None, None]) == [
        ("a", ["the run was aborted: StartFailed: no"]),
        ("b", []),
        ("c", []),
    ]

"""What is printed and written, without any stack."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from bridge_chaos.campaign import totals
from bridge_chaos.catalogue import catalogue, chosen
from bridge_chaos.load import Task
from bridge_chaos.main import app
from bridge_chaos.matrix import page
from bridge_chaos.promises import ALWAYS, PROMISES, Finding, Verdict
from bridge_chaos.report import line
from bridge_chaos.results import Plan, Results
from bridge_chaos.runner import Run
from bridge_chaos.scenario import Scenario, named_pair
from bridge_chaos.soak import SPRINKLED, Soak
from bridge_chaos.topology import Topology

ADA = Task("ada", "1")
PLAN = Plan("./run chaos", 1, None, ())


def run_of(scenario: Any, *findings: Any, excused: Any = (), seed: int = 1) -> Run:
    if isinstance(scenario, str):
        scenario = Scenario(catalogue()[scenario])
    verdict = Verdict(tasks=10, findings=[*findings])
    return Run(scenario, seed, True, verdict, recovery=[1.0, 3.0], seconds=5.0, excused=[*excused])


def test_each_fault_has_a_name_of_its_own_and_is_found_by_its_beginning() -> None:
    names = list(catalogue())
    assert len(names) == len(set(names)) > 70
    assert [fault.name for fault in chosen(["redis/kill"])] == ["redis/kill"]
    assert {fault.name for fault in chosen(["postgres"])} >= {"postgres/kill", "postgres/locks"}
    assert len(chosen([])) == len(names)
    with pytest.raises(KeyError):
        chosen(["nothing"])


def test_faults_name_promises_and_parts_that_exist() -> None:
    for fault in catalogue().values():
        if fault.window is not None:
            assert fault.window.promises <= set(PROMISES), fault.name
            assert fault.window.why.endswith("."), fault.name
        assert fault.occupies | fault.needs <= fault.topology.parts, fault.name
        assert fault.occupies | fault.needs or fault.alone, fault.name


def test_page_counts_and_names_known_limitations() -> None:
    faults = catalogue()
    in_window = Finding("repeated_messages", "twice", ADA)
    runs = [
        run_of("redis/kill", Finding("lost", "gone", ADA)),
        run_of("redis/kill", seed=2),
        run_of("bridge/stop-sending", in_window, excused=[in_window]),
        run_of(named_pair("redis/kill+letta/kill@recovery", faults)),
    ]
    struck_nothing = run_of("letta/kill")
    struck_nothing.struck = False
    skipped = {"redis/full": "nothing to fill"}
    text = page(Results(PLAN, [*runs, struck_nothing], skipped, {"old/fault"}), faults)
    assert "4 runs, 40 tasks" in text
    assert "**lost 1**" in text
    assert "`old/fault`: the fault no longer exists" in text
    assert "`letta/kill`: seed 1: the condition it waits for did not occur" in text
    assert "**letta/kill**" not in text
    assert "| 2 | 20 | 0 | 0 | 0 | **1** | 0 | 0 |" in text
    assert "1\\*" in text
    window = faults["bridge/stop-sending"].window
    assert window is not None
    assert window.why in text
    assert "redis/kill + letta/kill @ recovery (seed 1)" in text
    assert "`redis/full`: nothing to fill" in text
    assert totals(runs) == {"lost": 1}


def test_page_names_the_window_of_counted_turns_under_every_fault() -> None:
    finding = Finding("left_out", "only counted", ADA)
    text = page(Results(PLAN, [run_of("redis/kill", finding, excused=[finding])]), catalogue())
    assert f"- every fault ({PROMISES['left_out']}): {ALWAYS['left_out']}" in text
    assert ALWAYS["left_out"] not in page(Results(PLAN, [run_of("redis/kill")]), catalogue())


def test_page_names_no_directory_of_the_machine_and_counts_equal_observations() -> None:
    run = run_of("redis/kill")
    run.remarks += ["'restore /home/小明/runs/environment-3/backup-7' ended with 1", *["set aside"] * 2]
    observed = page(Results(PLAN, [run]), catalogue()).partition("## Further observations\n\n")[2]
    assert observed.splitlines()[:2] == [
        "- **redis/kill**: 'restore …/environment-3/backup-7' ended with 1",
        "- **redis/kill**: set aside (2 times)",
    ]


def test_line_of_a_broken_run_has_the_command_to_repeat_it() -> None:
    broken = line(run_of(named_pair("redis/kill+letta/kill@recovery", catalogue()), Finding("lost", "gone", ADA)))
    assert "BROKEN" in broken
    assert "again: ./run chaos --pair redis/kill+letta/kill@recovery --seed 1" in broken
    in_window = Finding("repeated_messages", "twice", ADA)
    assert "(in the named window)" in line(run_of("bridge/stop-sending", in_window, excused=[in_window]))


def test_soak_reports_growth_and_leftovers() -> None:
    flat = Soak(1, 1.0, resident=[50.0, 80, 80, 81, 80, 82], descriptors=[20] * 6, keys={"replies": 1})
    flat.rows["sessions"] = (40, 40)
    assert flat.problems() == []
    grown = Soak(1, 1.0, resident=[50.0, 80, 80, 180, 180, 180], descriptors=[20, 20, 20, 90, 90, 90])
    grown.keys["handed"], grown.rows["sessions"] = 3, (41, 40)
    grown.verdict.add("lost", "gone")
    assert len(grown.problems()) == 5


def test_a_soak_needs_no_stack_of_its_own_for_its_faults() -> None:
    known = catalogue()
    assert {known[name].topology for name in SPRINKLED} == {Topology()}


def test_command_line_lists_faults_and_refuses_unknown_ones() -> None:
    listed = CliRunner().invoke(app, ["chaos", "--list"])
    assert (listed.exit_code, "letta/one-of-two" in listed.output) == (0, True)
    assert CliRunner().invoke(app, ["chaos", "--fault", "nothing"]).exit_code == 2
    assert CliRunner().invoke(app, ["chaos", "--pair", "redis/kill+redis/restart@together"]).exit_code == 2

"""What is printed and written, without any stack."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bridge_chaos.campaign import Run, totals
from bridge_chaos.catalogue import catalogue, chosen
from bridge_chaos.main import app
from bridge_chaos.promises import BROKEN, Verdict
from bridge_chaos.report import line, page
from bridge_chaos.soak import SPRINKLED, Soak


def run_of(name, verdict, **fields):
    return Run(name, 1, struck=True, verdict=verdict, recovery=[1.0, 3.0], seconds=5.0, **fields)


def test_each_fault_has_a_name_of_its_own_and_is_found_by_its_beginning():
    names = list(catalogue())
    assert len(names) == len(set(names)) > 70
    assert [fault.name for fault in chosen(["redis/kill"])] == ["redis/kill"]
    assert {fault.name for fault in chosen(["memory"])} == {"memory/killed", "memory/gone"}
    assert len(chosen([])) == len(names)
    with pytest.raises(KeyError):
        chosen(["nothing"])


def test_faults_name_promises_that_exist_and_say_why():
    for fault in catalogue().values():
        assert fault.unkept <= set(BROKEN), fault.name
        assert bool(fault.unkept) == bool(fault.window), fault.name


def test_the_page_counts_and_names_what_cannot_be_kept():
    faults = catalogue()
    window = faults["bridge/stop-sending"]
    runs = [
        run_of("redis/kill", Verdict(tasks=10, lost=["a"])),
        run_of("redis/kill", Verdict(tasks=10)),
        run_of(window.name, Verdict(tasks=10, repeated_messages=["b"]), unkept=window.unkept),
    ]
    text = page(runs, faults, {"redis/full": "nothing to fill"}, "./run chaos")
    assert "3 runs, 30 tasks" in text
    assert "**lost 1**" in text
    assert "| 2 | 20 | 0 | 0 | 0 | 0 | 1 | 0 | 0 |" in text
    assert "1*" in text
    assert window.window in text
    assert "`redis/full`: nothing to fill" in text
    assert totals(runs) == {"lost": 1}
    assert "BROKEN" in line(runs[0])
    assert "(as told)" in line(runs[2])


def test_a_soak_tells_what_grew_and_what_is_left():
    flat = Soak(1, 1.0, resident=[50.0, 80, 80, 81, 80, 82], descriptors=[20] * 6, keys={"replies": 1})
    flat.rows["sessions"] = (40, 40)
    assert flat.problems() == []
    grown = Soak(1, 1.0, resident=[50.0, 80, 80, 180, 180, 180], descriptors=[20, 20, 20, 90, 90, 90])
    grown.keys["handed"], grown.rows["sessions"], grown.verdict.lost = 3, (41, 40), ["a"]
    assert len(grown.problems()) == 5


def test_a_soak_needs_no_stack_of_its_own_for_its_faults():
    known = catalogue()
    shapes = {known[name].shape for name in SPRINKLED}
    assert len(shapes) == 1


def test_the_command_line_lists_the_faults_and_refuses_what_it_does_not_know():
    listed = CliRunner().invoke(app, ["chaos", "--list"])
    assert (listed.exit_code, "letta/one-of-two" in listed.output) == (0, True)
    assert CliRunner().invoke(app, ["chaos", "--fault", "nothing"]).exit_code == 2

"""The file of results: what is written is what is read, whatever happened in between."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge_chaos import provenance
from bridge_chaos.catalogue import catalogue
from bridge_chaos.load import Task
from bridge_chaos.promises import Finding, Verdict
from bridge_chaos.results import Plan, ResultsFile, UnusableResults, read
from bridge_chaos.runner import Run
from bridge_chaos.scenario import Scenario, scenario_of

FAULTS = catalogue()
PAIR = "redis/kill+letta/kill@recovery"
PLAN = Plan("./run chaos --seed 7", 7, None, ["redis/kill", PAIR])


def run_of(name: Any, *findings: Any, excused: Any = (), seed: int = 7, commit: str = "c0ffee") -> Run:
    verdict = Verdict(tasks=9, sources=Counter(letta=8, dead=1), findings=[*findings, *excused], checked={"lost"})
    scenario = scenario_of(name, FAULTS)
    assert scenario is not None
    return Run(
        scenario,
        seed,
        struck=True,
        verdict=verdict,
        recovery=[0.25, 3.5],
        seconds=12.5,
        remarks=["½ of 一半"],
        excused=list(excused),
        commit=commit,
        machine="here",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


@pytest.fixture
def write(path: Path) -> Callable[..., Any]:
    def write(*runs: Any, plan: Any = None) -> None:
        with ResultsFile(path) as file:
            if plan is not None:
                file.begin(plan)
            for run in runs:
                file.add(run)

    return write


def test_runs_are_read_as_they_were_written(path: Path, write: Callable[..., Any]) -> None:
    lost = Finding("lost", "gone \ud83d\n".encode("utf-8", "replace").decode(), Task("用户", "1"))
    late = Finding("out_of_order", "late", "ada")
    write(run_of(PAIR, lost, excused=[late]), run_of("redis/kill", Finding("accounts", "no", None)), plan=PLAN)
    results = read(path, FAULTS)
    assert results.plan == PLAN
    assert results.runs == [run_of(PAIR, lost, excused=[late]), run_of("redis/kill", Finding("accounts", "no", None))]
    assert results.runs[0].broken == {"lost": 1}


def test_the_newest_run_of_a_scenario_and_seed_counts(path: Path, write: Callable[..., Any]) -> None:
    broken = run_of("redis/kill", Finding("lost", "gone"))
    write(broken, run_of("redis/kill", seed=8), run_of("redis/kill", commit="decaf"), plan=PLAN)
    results = read(path, FAULTS)
    assert [(run.seed, run.commit) for run in results.runs] == [(7, "decaf"), (8, "c0ffee")]
    assert results.repeated == [(broken, run_of("redis/kill", commit="decaf"))]
    assert results.has("redis/kill", 7, "decaf", unbroken=True)
    assert not results.has("redis/kill", 7, "c0ffee", unbroken=False)
    assert not results.has(PAIR, 7, "decaf", unbroken=False)


def test_a_line_that_a_kill_left_incomplete_is_ignored_and_written_over(path: Path, write: Callable[..., Any]) -> None:
    write(run_of("redis/kill"), run_of(PAIR), plan=PLAN)
    path.write_bytes(path.read_bytes()[:-20])
    assert [run.name for run in read(path, FAULTS).runs] == ["redis/kill"]
    write(run_of("letta/kill"))
    assert [run.name for run in read(path, FAULTS).runs] == ["redis/kill", "letta/kill"]


def test_two_campaigns_never_write_to_one_file(path: Path) -> None:
    with ResultsFile(path), pytest.raises(UnusableResults, match="another campaign"):
        ResultsFile(path)


def test_runs_of_faults_that_are_gone_are_named_and_left_out(path: Path, write: Callable[..., Any]) -> None:
    write(run_of("redis/kill"), run_of(PAIR), plan=PLAN)
    known = {name: fault for name, fault in FAULTS.items() if name != "letta/kill"}
    results = read(path, known)
    assert ([run.name for run in results.runs], results.unknown) == (["redis/kill"], {PAIR})


def test_a_result_of_a_pair_that_is_not_possible_any_more_is_read(path: Path, write: Callable[..., Any]) -> None:
    impossible = "redis/kill+redis/restart@together"
    assert Scenario(FAULTS["redis/kill"], FAULTS["redis/restart"]).problem()
    write(run_of(impossible), plan=PLAN)
    assert [run.name for run in read(path, FAULTS).runs] == [impossible]


def test_skipped_faults_are_kept_in_the_results(path: Path, write: Callable[..., Any]) -> None:
    write(plan=PLAN)
    with ResultsFile(path) as file:
        file.skip({"redis/full": "nothing to fill"})
    assert read(path, FAULTS).skipped == {"redis/full": "nothing to fill"}


def test_commit_marks_uncommitted_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: Any) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == provenance.UNKNOWN
    git("init")
    (tmp_path / "docs").mkdir()
    for name in ("source", "docs/page"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    clean = provenance.commit()
    assert clean.isalnum()
    (tmp_path / "docs" / "page").write_text("2")
    assert provenance.commit() == clean
    seen = {clean}
    for text in ("2", "3"):
        (tmp_path / "source").write_text(text)
        seen.add(provenance.commit())
    assert len(seen) == 3

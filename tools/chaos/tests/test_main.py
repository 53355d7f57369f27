"""The command line, with runs that start nothing."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bridge_chaos import campaign, main
from bridge_chaos.catalogue import catalogue
from bridge_chaos.load import Task
from bridge_chaos.promises import Finding, Verdict
from bridge_chaos.results import read
from bridge_chaos.runner import Run

FAULTS = ("redis/kill", "letta/kill", "postgres/kill")


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`chaos(*options)`: the output of a command whose runs are `chaos.ends`, name → findings or an interruption."""
    monkeypatch.setattr(main, "_PAGE", tmp_path / "crash-matrix.md")
    monkeypatch.setattr(main, "_RESULTS", tmp_path / "results")
    monkeypatch.setattr(main, "Workspace", lambda _folder: nullcontext())
    monkeypatch.setattr(campaign, "Environment", lambda _workspace, _topology: nullcontext("environment"))
    monkeypatch.setattr(campaign, "run_once", lambda _environment, scenario, seed: run(scenario, seed))
    for module in (main, campaign):
        monkeypatch.setattr(module, "commit", lambda: invoke.commit)

    def run(scenario: Any, seed: int) -> Run:
        invoke.ran.append((scenario.name, seed))
        end = invoke.ends.get(scenario.name, ())
        if end is KeyboardInterrupt:
            raise KeyboardInterrupt
        return Run(scenario, seed, True, Verdict(tasks=7, findings=list(end)), recovery=[1.0, 2.0, 6.0])

    def invoked(*options: Any, code: int = 0) -> Any:
        invoke.ran = []
        result = CliRunner().invoke(main.app, ["chaos", *map(str, options)])
        assert result.exit_code == code, result.output
        return result.output

    invoke: Any = invoked  # what the tests set and read is kept on it
    invoke.ends, invoke.commit, invoke.page = {}, "c0ffee", tmp_path / "crash-matrix.md"
    invoke.file = lambda: next((tmp_path / "results").glob("*.jsonl"))
    return invoke


def faults(*names: Any) -> list[Any]:
    return [option for name in names for option in ("--fault", name)]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ""),
        (["--pairs", "4"], "--pairs 4 "),
        (["--minutes", "0.001", "--pairs", "2"], "--minutes 0.001 --pairs 2 "),
    ],
)
def test_the_page_names_the_command_that_made_it(chaos: Any, options: Any, shown: str) -> None:
    chaos("--docs", "--seed", "47", *faults(*FAULTS), *options)
    given = " ".join(faults(*FAULTS))
    assert f"`./run chaos {given} {shown}--seed 47 --docs`" in chaos.page.read_text("utf-8")


def test_each_result_is_in_the_file_although_the_campaign_is_interrupted(chaos: Any) -> None:
    chaos.ends["letta/kill"] = KeyboardInterrupt
    output = chaos("--docs", "--seed", 5, *faults(*FAULTS))
    assert str(chaos.file()) in output.splitlines()[0]
    assert f"--resume {chaos.file()}" in output
    assert not chaos.page.exists()
    assert [run.name for run in read(chaos.file(), catalogue()).runs] == ["redis/kill"]


def test_resumed_campaign_runs_missing_faults_and_writes_the_complete_page(chaos: Any) -> None:
    chaos.ends["letta/kill"] = KeyboardInterrupt
    chaos("--docs", "--seed", 5, *faults(*FAULTS))
    chaos.ends = {}
    output = chaos("--docs", "--resume", chaos.file())
    assert chaos.ran == [("letta/kill", 5), ("postgres/kill", 5)]
    assert "run 2 of 2, about 0 min left" in output
    assert "3 runs, 21 tasks" in chaos.page.read_text("utf-8")
    chaos("--resume", chaos.file())
    assert chaos.ran == []


def test_a_resumed_campaign_repeats_runs_of_another_commit(chaos: Any) -> None:
    chaos("--seed", 5, *faults(*FAULTS))
    chaos.commit = "decaf"
    chaos("--resume", chaos.file())
    assert [name for name, _ in chaos.ran] == list(FAULTS)
    assert {run.commit for run in read(chaos.file(), catalogue()).runs} == {"decaf"}


def test_broken_runs_are_repeated_only_on_request_and_marked_on_the_page(chaos: Any) -> None:
    chaos.ends["redis/kill"] = [Finding("lost", "gone", Task("ada", "1"))]
    chaos("--seed", 5, *faults(*FAULTS), code=1)
    chaos.ends = {}
    chaos("--resume", chaos.file(), code=1)
    assert chaos.ran == []
    chaos("--docs", "--resume", chaos.file(), "--again")
    assert chaos.ran == [("redis/kill", 5)]
    text = chaos.page.read_text("utf-8")
    assert "- `redis/kill` (seed 5): lost 1 at c0ffee, again at c0ffee" in text
    assert "outside the windows named below: **none**" in text


def test_page_is_written_from_files_without_a_run(chaos: Any) -> None:
    chaos("--seed", 5, *faults(*FAULTS))
    chaos("--page", chaos.file())
    assert chaos.ran == []
    text = chaos.page.read_text("utf-8")
    assert "| 2.0 / 6.0 |" in text  # p50 / most
    assert "runs of commit c0ffee (3)" in text


@pytest.mark.parametrize("option", [("--seed", 1), ("--pairs", 2), ("--fault", "redis/kill"), ("--minutes", 3)])
def test_a_resumed_campaign_takes_its_choices_from_the_file_alone(chaos: Any, option: Any) -> None:
    chaos("--seed", 5, *faults(*FAULTS))
    chaos("--resume", chaos.file(), *option, code=2)


@pytest.mark.parametrize("text", ["", "nonsense\n", '{"v": 2}\n', '{"v": 1, "run": {}}\n'])
def test_a_file_that_holds_no_results_is_refused(chaos: Any, tmp_path: Path, text: str) -> None:
    other = tmp_path / "other"
    other.write_text(text)
    chaos("--resume", other, code=2)
    chaos("--page", other, code=2)
    assert other.read_text() == text
    chaos("--page", tmp_path / "missing", code=2)

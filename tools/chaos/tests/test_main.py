"""The command line, with campaigns that run nothing."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bridge_chaos import main


class NoCampaign:
    """Runs nothing."""

    def __init__(self, *_args):
        self.runs = []
        self.skipped = {}

    def run(self, minutes):
        self.minutes = minutes


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], ""), (["--pairs", "40"], "--pairs 40 "), (["--minutes", "1.5", "--pairs", "2"], "--minutes 1.5 --pairs 2 ")],
)
def test_the_page_names_the_command_that_made_it(monkeypatch, tmp_path, options, shown):
    monkeypatch.setattr(main, "Campaign", NoCampaign)
    monkeypatch.setattr(main, "_PAGE", tmp_path / "crash-matrix.md")
    result = CliRunner().invoke(main.app, ["chaos", "--docs", "--seed", "47", *options])
    assert result.exit_code == 0, result.output
    assert f"`./run chaos {shown}--seed 47 --docs`" in (tmp_path / "crash-matrix.md").read_text("utf-8")

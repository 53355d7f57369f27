from __future__ import annotations

import io
import sys

import pytest

from letta_server.transfer import display as displays


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work() -> None:
    with displays.display() as shown:
        shown.begin("agents", 3)
        shown.advance(2)
        shown.advance(1)
        shown.end()


def test_display_prints_a_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    work()
    assert capsys.readouterr().out == "agents: 3 rows\n"


def test_a_long_step_is_heard_of_meanwhile(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displays, "_REPORT_EVERY_SECONDS", 0.0)
    work()
    assert capsys.readouterr().out.splitlines()[0] == "agents: 2 of 3 rows"


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    work()
    assert "agents" in terminal.getvalue()
    assert capsys.readouterr().out == ""

from __future__ import annotations

from pathlib import Path

import pytest

from letta_server import env_file
from letta_server.errors import SettingsRefused


def test_every_way_of_writing_a_line(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "# comment\n\nA=1\nexport B = two words  # why\nC='kept # as is'\nD=\"x=y\"\nE=\nF=p#ss%40\n", "utf-8"
    )
    expected = {"A": "1", "B": "two words", "C": "kept # as is", "D": "x=y", "E": "", "F": "p#ss%40"}
    assert env_file.read(file) == expected


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes("\ufeffA=1\r\nB='two'\r\n\r\n# C=3\r\nD=4 \r\n".encode())
    assert env_file.read(file) == {"A": "1", "B": "two", "D": "4"}


def test_a_line_that_is_none_is_named_by_its_number_only(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\nsecret-without-name\n", "utf-8")
    with pytest.raises(SettingsRefused, match="Line 2") as refusal:
        env_file.read(file)
    assert "secret" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused):
        env_file.read(tmp_path / "none")

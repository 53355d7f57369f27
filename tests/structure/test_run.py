"""`./run` refuses what it cannot do in one sentence, before it installs anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["unit", "--python"], "run: --python needs a version, such as 3.13"),
        (["unit", "--python", "2.7"], "run: '2.7' is neither a version from 3.11 on nor a Python of such a version"),
        (["unit", "--python", ""], "run: '' is neither a version from 3.11 on nor a Python of such a version"),
        (["unite"], "run: no command 'unite'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_code_2(words: list[str], sentence: str) -> None:
    done = subprocess.run([CHECKOUT / "run", *words], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == sentence


def test_environments_of_other_pythons_are_ignored_by_git() -> None:
    words = ["git", "check-ignore", ".venv-3.13/bin/python", ".coverage", ".coverage.host.1"]
    assert subprocess.run(words, cwd=CHECKOUT, capture_output=True, check=False).stdout.count(b"\n") == 3

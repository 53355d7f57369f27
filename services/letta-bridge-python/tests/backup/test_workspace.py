"""Restores of one data directory exclude each other, whenever each of them opened the lock file."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.backup.workspace import workspace
from shared_utils.persistence.errors import Conflict


def test_a_lock_file_opened_before_another_restore_ended_excludes_the_next_one(tmp_path: Path) -> None:
    with workspace(tmp_path):
        waiting = (tmp_path / ".restore" / "lock").open("rb")
    with waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(Conflict, match="another restore is running"), workspace(tmp_path):
            pass


def test_a_refused_restore_leaves_the_files_of_the_running_one_alone(tmp_path: Path) -> None:
    with workspace(tmp_path) as scratch:
        (scratch / "table").touch()
        with pytest.raises(Conflict), workspace(tmp_path):
            pass
        assert (scratch / "table").exists()


@pytest.mark.parametrize("failure", [None, LookupError])
def test_nothing_but_the_lock_file_stays_of_a_restore(tmp_path: Path, failure: Any) -> None:
    try:
        with workspace(tmp_path) as scratch:
            (scratch / "table").write_text("what a user said")
            if failure:
                raise failure
    except LookupError:
        pass
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / ".restore" / "lock"]

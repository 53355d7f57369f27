"""A user's folder goes with all that is in it, and nothing outside it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.errors import UploadsKept
from letta_bridge.turn.uploads import user_folder
from letta_bridge.user_data.upload_data import UploadUserData


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for user in ("ada", "bob"):
        folder = tmp_path / "uploads" / user_folder(user) / "voice"
        folder.mkdir(parents=True)
        (folder / "one.txt").write_text(user)
        (folder.parent / "note.txt").write_text(user)
    (tmp_path / "uploads" / "shared.txt").write_text("nobody's")
    (tmp_path / "outside.txt").write_text("outside")
    return tmp_path / "uploads"


async def test_one_users_files_go_and_no_other_users(root: Path) -> None:
    trace = UploadUserData(root)
    (root / user_folder("ada") / "link").symlink_to(root / user_folder("bob"))
    (root / user_folder("ada") / "out.txt").symlink_to(root.parent / "outside.txt")
    assert await trace.count("ada") == {"uploads": 2}
    assert await trace.erase("ada") == {"uploads": 2}
    assert await trace.count("ada") == {"uploads": 0}
    assert not (root / user_folder("ada")).exists()
    assert await trace.count("bob") == {"uploads": 2}
    assert (root.parent / "outside.txt").exists()
    assert await trace.erase("ada") == {"uploads": 0}


async def test_they_are_exported_as_they_are_without_links(root: Path, tmp_path: Path) -> None:
    (root / user_folder("ada") / "out.txt").symlink_to(root.parent / "outside.txt")
    assert await UploadUserData(root).export("ada", tmp_path / "export") == {"uploads": 2}
    exported = tmp_path / "export" / "uploads"
    assert sorted(str(path.relative_to(exported)) for path in exported.rglob("*.txt")) == ["note.txt", "voice/one.txt"]
    assert {oct(path.stat().st_mode & 0o777) for path in exported.rglob("*.txt")} == {"0o600"}


async def test_without_a_directory_there_is_nothing(tmp_path: Path) -> None:
    trace = UploadUserData(tmp_path / "missing")
    assert await trace.count("ada") == await trace.erase("ada") == {"uploads": 0}


async def test_uploads_without_rights_raise_uploads_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_args: Path, **_options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(shutil, "rmtree", read_only)
    with pytest.raises(UploadsKept, match=r"cannot be removed \(Read-only file system\)"):
        await UploadUserData(root).erase("ada")

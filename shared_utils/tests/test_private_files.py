"""Files closed to others from their first moment, whole or not at all, under names that are never paths."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.private_files import create, file_name, make_folder, replacing

NASTY = (
    "../../etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    "a\nb\0c",
    "小明",
    "用户" * 128,
    "x" * 256,
    "half \ud83d",
    "con",
    ".hidden",
    "UPPER",
    "upper",
    "a:b*c?",
    "名 字",
)


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_created_files_and_folders_are_private(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    create(tmp_path / "c" / "file")
    with replacing(tmp_path / "d" / "file") as file:
        assert mode(tmp_path / "d" / "file.partial") == "0o600"
        file.write(b"x")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "c", "d")] == ["0o700"] * 4
    assert [mode(tmp_path / name) for name in ("c/file", "d/file")] == ["0o600"] * 2


def test_locks_on_a_file_that_is_there_are_kept(tmp_path: Path) -> None:
    """A process loses its POSIX locks on a file with the first descriptor of it that is closed."""
    with (tmp_path / "file").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        create(tmp_path / "file")
        program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        locked = subprocess.run([sys.executable, "-c", program, tmp_path / "file"], check=False, capture_output=True)
    assert b"BlockingIOError" in locked.stderr


def test_a_link_is_followed_to_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    create(tmp_path / "link")
    assert mode(tmp_path / "target") == "0o600"
    create(tmp_path / "link")


def test_existing_files_and_folders_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "file").write_text("x")
    make_folder(tmp_path / "open")
    create(tmp_path / "file")
    assert mode(tmp_path / "open") == "0o755"
    assert (tmp_path / "file").read_text() == "x"


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with replacing(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    def broken_off() -> None:
        with replacing(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert list(tmp_path.iterdir()) == []


def test_partial_file_of_a_killed_process_is_replaced_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "file.partial").symlink_to(tmp_path / "elsewhere")
    with replacing(tmp_path / "file") as file:
        file.write(b"x")
    assert (tmp_path / "elsewhere").read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("text", NASTY)
def test_any_text_names_a_file(tmp_path: Path, text: str) -> None:
    name = file_name(text, ".jsonl")
    (tmp_path / name).write_text("x")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert len(name.encode()) <= 255


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_two_texts_share_a_name_whatever_their_case(one: str, other: str) -> None:
    if one != other:
        assert file_name(one).lower() != file_name(other).lower()
    name = file_name(one)
    assert name == file_name(one)
    assert "/" not in name
    assert name not in {".", ".."}
    assert name.isascii()
    assert name.isprintable()


def test_ids_as_letta_gives_them_stay_readable() -> None:
    assert file_name("agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8") == "agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8"
    assert file_name("小明").startswith("%E5%B0%8F%E6%98%8E~")

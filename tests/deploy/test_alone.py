"""deploy/alone: two servers never use one folder at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


@pytest.mark.process
def test_a_second_server_on_the_same_folder_is_refused_until_the_first_has_ended(
    checkout: Path, tmp_path: Path
) -> None:
    def words(said: str) -> list[str | Path]:
        # The shell's child holds the folder as well, as PostgreSQL's do.
        return [checkout / "deploy/alone", tmp_path, "sh", "-c", f"echo {said}; cat > /dev/null"]

    with subprocess.Popen(words("first"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "first\n"
        second = subprocess.run(words("second"), input="", capture_output=True, text=True, check=False)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.startswith(f"sh: another container uses {tmp_path}, ")
        first.stdin.close()
        assert first.wait(30) == 0
    third = subprocess.run(words("third"), input="", capture_output=True, text=True, check=False)
    assert (third.returncode, third.stdout, third.stderr) == (0, "third\n", "")


@pytest.mark.process
def test_a_folder_that_cannot_be_written_is_named(checkout: Path, tmp_path: Path) -> None:
    """Root may write anywhere but into a folder that is none."""
    done = subprocess.run(
        [checkout / "deploy/alone", tmp_path / "none", "valkey-server"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"valkey-server: {tmp_path}/none cannot be written by user {os.getuid()}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("flock", ["#!/bin/sh\necho 'flock: 9: No locks available' >&2; exit 1\n", None])
def test_a_file_system_or_an_image_without_locks_is_no_reason_to_refuse(
    flock: str | None, checkout: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sh").symlink_to("/bin/sh")
    if flock is not None:
        (programs / "flock").write_text(flock, encoding="utf-8")
        (programs / "flock").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", checkout / "deploy/alone", tmp_path, "sh", "-c", "echo started"],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "started\n")

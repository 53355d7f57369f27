"""A session file that cannot be written is told, and so is its recovery."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared_utils.persistence.session_file.probe import SessionFileProbe


@pytest.fixture
def make_probe() -> Iterator[Callable[..., Any]]:
    made = []

    def make(path: Path) -> SessionFileProbe:
        made.append(SessionFileProbe(path))
        return made[-1]

    yield make
    for probe in made:
        probe.close()


async def test_a_file_that_can_be_written_is_no_failure_and_stays_as_it_is(
    tmp_path: Path, make_probe: Callable[..., Any]
) -> None:
    path = tmp_path / "data" / "sessions.sqlite"
    probe = make_probe(path)
    assert await probe.check() is None
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("PRAGMA user_version").fetchone(), list(connection.iterdump())
    assert await probe.check() is None
    with closing(sqlite3.connect(path)) as connection:
        assert (connection.execute("PRAGMA user_version").fetchone(), list(connection.iterdump())) == before


async def test_a_directory_that_cannot_be_made_is_reported_until_it_can(
    tmp_path: Path, make_probe: Callable[..., Any]
) -> None:
    (tmp_path / "data").write_text("in the way")
    probe = make_probe(tmp_path / "data" / "sessions.sqlite")
    assert "cannot be used" in await probe.check()
    (tmp_path / "data").unlink()
    assert await probe.check() is None


async def test_a_disk_that_takes_no_more_is_reported_although_reading_works(
    tmp_path: Path, make_probe: Callable[..., Any]
) -> None:
    probe = make_probe(tmp_path / "sessions.sqlite")
    assert await probe.check() is None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk a write fails; Python ignores the signal that comes with it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert "the disk is not full" in await probe.check()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await probe.check() is None

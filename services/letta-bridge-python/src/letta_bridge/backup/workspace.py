"""The scratch folder of a restore, in the data directory, with a lock against concurrent restores."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared_utils.persistence.errors import Conflict
from shared_utils.private_files import create, make_folder

_RESTORE_FOLDER: Final = ".restore"
_LOCK_FILE: Final = "lock"


@contextlib.contextmanager
def workspace(data_dir: Path) -> Iterator[Path]:
    """An empty folder, readable by its owner only, and deleted at the end. Leftovers of a killed restore are deleted.

    The lock file stays: where it were deleted, a process that had opened it before and one that creates it anew would
    both hold a lock.

    Raises:
        Conflict: another restore of this data directory is running.
    """
    folder = data_dir / _RESTORE_FOLDER
    create(folder / _LOCK_FILE)
    with (folder / _LOCK_FILE).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another restore is running in {data_dir}; wait until it has ended") from None
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        make_folder(scratch)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

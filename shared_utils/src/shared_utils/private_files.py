"""Creates files that only their owner may read, atomically where they have contents."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
PARTIAL: Final = ".partial"
"""Suffix of a file that is being written."""
_LONGEST_NAME: Final = 200
"""Bytes. File systems allow 255, and an ending is added."""
_creating: Final = threading.Lock()
"""Held until a new file is closed again: no other thread has it open by then."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_@+=,-][A-Za-z0-9._@+=,-]*")


def make_folder(path: Path) -> None:
    """Create a folder and its parents with mode 0700. Existing folders keep their mode."""
    for folder in (*reversed(path.parents), path):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=FOLDER_MODE)


def create(path: Path) -> None:
    """Create an empty file with mode 0600, and its parents. An existing file is neither changed nor opened.

    For libraries that open a file by name and would create it with the mode of the umask. A process that closes any
    descriptor of a file loses all its POSIX locks on it: those of SQLite's other connections, whose write-ahead log
    another process would then delete.
    """
    make_folder(path.parent)
    with _creating, contextlib.suppress(FileExistsError):
        # O_EXCL does not follow a symbolic link, whose target may not be there yet.
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def opener(path: str, flags: int) -> int:
    """An opener for ``open`` that creates files with mode 0600."""
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file with mode 0600 atomically: it replaces ``path`` when the block ends, unless the block raises.

    A process that is killed in the block leaves ``<name>.partial``, which the next call overwrites.
    """
    make_folder(path.parent)
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)  # a symbolic link in its place must not be followed
    with open(partial, "xb", opener=opener) as file:  # a path's own open takes no opener
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    partial.replace(path)
    _sync_folder(path.parent)


def file_name(text: str, ending: str = "") -> str:
    """A file name derived from any text: never a path, printable ASCII, of bounded length.

    Different texts have different names, also on a file system that ignores case.
    """
    if _PLAIN.fullmatch(text) and len(text) <= _LONGEST_NAME and text == text.lower():
        return text + ending
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    readable = quote(text, safe=" @+=,", errors="replace").replace(".", "%2E")[: _LONGEST_NAME - len(digest) - 1]
    return f"{readable}~{digest}{ending}"


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

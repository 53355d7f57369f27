"""Reads the text of an ``input_file``, only from the folder of the task's user in the upload directory.

Each user has a folder there, named by the SHA-256 of the user's id: a safe name for any id, which producers in any
language can compute. Every path component is opened relative to its parent and never through a link, so that a
component swapped between check and read cannot lead outside.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from letta_bridge.errors import OutOfResources, UploadRefused, UploadsKept
from shared_utils.exhaustion import is_exhaustion
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.text import REPLACEMENT, read_text

_USER_FOLDER: Final = re.compile(r"[0-9a-fA-F]{64}")
"""Any user's folder, also where the file system takes capitals for small letters."""
_MISSING_FILE_ERROR: Final = "input_file names a file that does not exist or cannot be read"
_UNREADABLE_SHARE: Final = 0.05
"""Share of a file's characters: a few invalid ones are replaced, many mean that it is not UTF-8 text."""


def user_folder(user_id: str) -> str:
    """The name of a user's folder: the SHA-256 of the id in UTF-8, in lower-case hexadecimal digits."""
    return user_hash(user_id)


def files_of(folder: Path) -> list[Path]:
    """The files in a user's folder, without those reached through a link."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def remove_files(folder: Path, until: float | None = None) -> int:
    """Remove a user's folder, or the files in it from before a time; returns the number of files.

    Args:
        folder: the user's.
        until: seconds since 1970; files whose inode changed later stay. None removes all.

    Raises:
        UploadsKept: this process lacks the rights.
    """
    try:
        if until is None:
            gone = len(files_of(folder))
            if folder.exists():
                shutil.rmtree(folder)
            return gone
        old = [path for path in files_of(folder) if path.stat().st_ctime <= until]
        for path in old:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UploadsKept(
            f"the uploads in {folder} cannot be removed ({error.strerror}); remove them where it can be written"
        ) from error
    return len(old)


@dataclass(frozen=True, slots=True)
class Uploads:
    """The upload directory."""

    root: Path
    max_bytes: int
    shared: bool = False
    """Whether every user may also name the files that lie in no user's folder."""

    async def read(self, user_id: str, name: str) -> str:
        """The text of a user's file.

        Args:
            user_id: the task's.
            name: a path inside the user's folder, or one that begins with the folder's name; absolute or not.

        Raises:
            UploadRefused: it is outside the folder, missing, no regular file, reached through a link, larger than
                ``max_bytes``, or not UTF-8.
            OutOfResources: this host cannot open it now.
        """
        return await asyncio.to_thread(self._read, user_id, name)

    def _read(self, user_id: str, name: str) -> str:
        content = None
        try:
            for parts in self._places(user_id, name):
                try:
                    content = _content(self.root, parts, self.max_bytes + 1)
                    break
                except FileNotFoundError:
                    continue
        except (OSError, ValueError) as error:
            if is_exhaustion(error):
                raise OutOfResources from error
            raise UploadRefused(_MISSING_FILE_ERROR) from error
        if content is None:
            raise UploadRefused(_MISSING_FILE_ERROR)
        if len(content) > self.max_bytes:
            raise UploadRefused(
                f"input_file names a file of more than {self.max_bytes} bytes; that is the configured limit"
            )
        text = read_text(content)
        if text.count(REPLACEMENT) > len(text) * _UNREADABLE_SHARE:
            raise UploadRefused("input_file names a file that is not UTF-8 text; convert it, or name a text file")
        return text

    def _places(self, user_id: str, name: str) -> Sequence[tuple[str, ...]]:
        """The possible places of the file, as path components below the root; the user's folder first."""
        if "\0" in name:  # the result of normpath may be the root itself
            raise UploadRefused(_MISSING_FILE_ERROR)
        mine = user_folder(user_id)
        roots = sorted({self.root.absolute(), self.root.resolve()})
        found = [_below(root, base / name) for base in (Path(mine), Path()) for root in roots]
        inside = [parts for parts in found if parts is not None]
        places = [parts for parts in inside if parts[:1] == (mine,)]
        if self.shared:
            places += [parts for parts in inside if not parts or not _USER_FOLDER.fullmatch(parts[0])]
        if places:
            return tuple(dict.fromkeys(places))
        if inside:
            raise UploadRefused(
                "input_file names a file outside its user's folder of the upload directory; put it into the folder "
                "named by the SHA-256 of user_id, or set uploads.shared"
            )
        raise UploadRefused("input_file names a file outside the upload directory; only files inside it are read")


def _below(root: Path, path: Path) -> tuple[str, ...] | None:
    """The components of ``path`` below ``root``, without ``.`` and ``..``; None if it is not below."""
    try:
        return Path(os.path.normpath(root / path)).relative_to(os.path.normpath(root)).parts
    except ValueError:
        return None


def _content(root: Path, parts: Sequence[str], size: int) -> bytes:
    """The first ``size`` bytes of a regular file."""
    # Do not block on a pipe without a writer.
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        file = os.open(parts[-1] if parts else ".", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UploadRefused("input_file does not name a regular file")
        with os.fdopen(file, "rb", closefd=False) as opened:
            return opened.read(size)
    finally:
        os.close(file)

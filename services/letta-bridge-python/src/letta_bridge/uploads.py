"""The text of an ``input_file``: read only inside the upload root, whatever the task names."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Final

from letta_bridge.errors import UploadRefused
from shared_utils.text import REPLACEMENT, read_text

_UNREADABLE_SHARE: Final = 0.05
"""Of a file's characters: a few broken ones are no reason to lose a message, many mean that it is no UTF-8 text."""


async def read_upload(root: Path, name: str, max_bytes: int) -> str:
    """The text of the file ``name``, a path below ``root`` or an absolute one inside it.

    Raises:
        UploadRefused: it is outside the root (symbolic links resolved), missing, no regular file, larger than
            ``max_bytes``, or no text in UTF-8 (or in UTF-16 with a byte order mark).
    """
    return await asyncio.to_thread(_read, root, name, max_bytes)


def _read(root: Path, name: str, max_bytes: int) -> str:
    try:
        real_root = root.resolve(strict=True)
        path = (real_root / name).resolve(strict=True)
        if not path.is_relative_to(real_root):
            raise UploadRefused("input_file names a file outside the upload directory; only files inside it are read")
        content = _content(path, max_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that form a circle
        raise UploadRefused("input_file names a file that does not exist or cannot be read") from error
    if len(content) > max_bytes:
        raise UploadRefused(f"input_file names a file of more than {max_bytes} bytes; that is the configured limit")
    text = read_text(content)
    if text.count(REPLACEMENT) > len(text) * _UNREADABLE_SHARE:
        raise UploadRefused("input_file names a file that is not UTF-8 text; convert it, or name a text file")
    return text


def _content(path: Path, size: int) -> bytes:
    # Not to be held up by a pipe nobody writes to, nor led astray by a link put there a moment ago.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UploadRefused("input_file does not name a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(size)
    finally:
        os.close(descriptor)

"""The provenance of a run: the commit and the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from typing import Final

from local_stack.programs import CHECKOUT

UNKNOWN: Final = "unknown"
"""The commit where the sources are in no checkout of git."""
_DIGITS: Final = 9
_DIGEST_DIGITS: Final = 8


def commit() -> str:
    """The commit of the checkout; with uncommitted changes ``<commit>+<digest of the changes>``."""
    head = _git("rev-parse", f"--short={_DIGITS}", "HEAD").decode().strip()
    if not head:
        return UNKNOWN
    changes = _git("diff", "HEAD", "--", ".", ":!docs") + _git("ls-files", "--others", "--exclude-standard")
    if not changes:
        return head
    return f"{head}+{hashlib.sha256(changes).hexdigest()[:_DIGEST_DIGITS]}"


def machine() -> str:
    """Where and when a measurement was made."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}"
    )


def _git(*words: str) -> bytes:
    git = shutil.which("git")
    if git is None:
        return b""
    # The project's own checkout, no shell.
    ended = subprocess.run([git, *words], cwd=CHECKOUT, capture_output=True, check=False)  # noqa: S603
    return ended.stdout if ended.returncode == 0 else b""

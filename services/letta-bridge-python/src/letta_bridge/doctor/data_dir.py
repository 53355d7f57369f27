"""Checks the data directory on this host: rights, free space, and the session file."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from letta_bridge.doctor.findings import Finding, fail, ok, warn
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import SessionStoreError
from shared_utils.private_files import make_folder

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULL_BELOW_BYTES: Final = 50 * 2**20
_TIGHT_BELOW_BYTES: Final = 1024 * 2**20
"""Bytes."""
_TRIAL_CONTENT: Final = b"\0" * 65_536


async def examine(settings: BridgeSettings) -> AsyncIterator[Finding]:
    """Whether it is writable, has free space, and contains a usable session file."""
    directory = settings.data_dir
    yield await asyncio.to_thread(_writable, directory)
    if directory.is_dir():
        yield _room(directory)
    if (exposed := _exposed(settings.session_file)) is not None:
        yield exposed
    yield await _sessions(settings.session_file)


def _writable(directory: Path) -> Finding:
    """Tested by writing, because only that detects a quota, a read-only mount, or a full disk."""
    subject = "disk.write"
    try:
        make_folder(directory)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-") as trial:
            trial.write(_TRIAL_CONTENT)
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        if error.errno in _NO_ROOM:
            return fail(
                subject,
                f"the disk or the quota of {directory} is full ({error.strerror}), so it can store neither sessions "
                "nor uploads",
                "free disk space, or name another directory in DATA_DIR",
            )
        return fail(
            subject,
            f"{directory} cannot be written ({error.strerror})",
            "free disk space, grant the bridge's user write access, or name another directory in DATA_DIR",
        )
    return ok(subject, f"{directory.resolve()} can be written")


def _room(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    says = f"{free / 2**20:,.0f} MB free in {directory.resolve()}"
    if free < _FULL_BELOW_BYTES:
        return fail("disk.space", f"the disk is full: {says}", "free disk space, or move DATA_DIR to another disk")
    if free < _TIGHT_BELOW_BYTES:
        return warn("disk.space", f"the disk is nearly full: {says}", "make room soon")
    return ok("disk.space", says)


def _exposed(sessions: Path) -> Finding | None:
    """Files that an earlier release made readable for everybody on this machine."""
    held = (sessions.with_name(name) for name in (sessions.name, f"{sessions.name}-wal", "erasures.jsonl"))
    open_to_all = [str(file) for file in held if file.exists() and file.stat().st_mode & stat.S_IROTH]
    if not open_to_all:
        return None
    return warn(
        "disk.private",
        f"every user of this machine can read {', '.join(open_to_all)}",
        "remove the permission: chmod 600",
    )


async def _sessions(file: Path) -> Finding:
    store = FileSessionStore(file)
    try:
        counts = await store.count()
    except SessionStoreError as error:
        says, _, advice = str(error).partition("; ")
        return fail("sessions", says, advice)
    finally:
        await store.close()
    return ok("sessions", f"{counts['active']} sessions, {counts['reserved']} of them without an agent yet")

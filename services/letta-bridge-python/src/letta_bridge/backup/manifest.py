"""The manifest of a backup: every file with size and checksum, every table and agent with counts.

The manifest is written last and atomically: a directory without one is no backup. Format 1, of earlier releases, whose
agent files hold only the messages in context, can still be read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from letta_bridge.backup.errors import BackupDamaged
from letta_bridge.backup.manifest_check import fault_of
from letta_bridge.backup.records import Manifest, OldManifest, Part, SavedAgent, SavedState, SavedTable
from shared_utils.private_files import replacing

MANIFEST_FILE: Final = "manifest.json"
UNFINISHED_MARK: Final = "unfinished"
"""Exists in a backup's directory while the backup is being made."""
OLD_AGENTS_LACK: Final = (
    "the backup is of an earlier release, whose agent files contain only the messages in context: older messages, "
    "archival memory and the ids that identify redelivered messages are not in it"
)

_ANY_MANIFEST: Final[TypeAdapter[Manifest | OldManifest]] = TypeAdapter(
    Annotated[Manifest | OldManifest, Field(discriminator="format")]
)


def parts_of(folder: Path) -> tuple[Part, ...]:
    """Every file of a backup, without the manifest and the marker of an unfinished backup."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    about = {folder / MANIFEST_FILE, folder / UNFINISHED_MARK}
    return tuple(_part(folder, path) for path in files if path not in about)


def write(folder: Path, manifest: Manifest) -> None:
    """Complete a backup."""
    (folder / UNFINISHED_MARK).unlink(missing_ok=True)
    with replacing(folder / MANIFEST_FILE) as file:
        file.write(manifest.model_dump_json(indent=2).encode() + b"\n")


def read(folder: Path) -> Manifest:
    """Read the manifest of a backup, and verify every file of the directory against it.

    Raises:
        BackupDamaged: there is no manifest, it contradicts itself, or a file is missing, changed, or not named in it.
    """
    try:
        text = (folder / MANIFEST_FILE).read_bytes()
    except FileNotFoundError:
        if (folder / UNFINISHED_MARK).exists():
            raise BackupDamaged(f"the backup in {folder} is incomplete; make another one") from None
        raise BackupDamaged(
            f"{folder} does not contain a complete backup ({MANIFEST_FILE} is missing); name another directory"
        ) from None
    except OSError as error:
        raise BackupDamaged(
            f"{folder / MANIFEST_FILE} cannot be read ({error.strerror}); use another copy of it"
        ) from None
    try:
        found = _ANY_MANIFEST.validate_json(text)
    except ValidationError as error:
        problem = " ".join(error.errors(include_url=False)[0]["msg"].split())  # it may quote what the manifest says
        raise BackupDamaged(
            f"{folder / MANIFEST_FILE} is not a manifest that this release can read ({problem})"
        ) from None
    try:
        _check(folder, found.parts)
    except OSError as error:
        raise BackupDamaged(f"{error.filename} cannot be read ({error.strerror}); use another copy of it") from None
    manifest = found if isinstance(found, Manifest) else _upgraded(found, text)
    if (fault := fault_of(manifest)) is not None:
        raise BackupDamaged(
            f"{folder / MANIFEST_FILE} was modified: {fault}; nothing was restored. Use another copy of the backup"
        )
    return manifest


def _check(folder: Path, parts: tuple[Part, ...]) -> None:
    named = {part.path for part in parts}
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    for name, found in there.items():
        if found.is_symlink() or not (found.is_dir() or name in named or name == MANIFEST_FILE):
            raise BackupDamaged(f"{found} is not named in the manifest; remove it, or use another copy of the backup")
    for part in parts:
        place = PurePosixPath(part.path)
        if place.is_absolute() or ".." in place.parts:
            raise BackupDamaged(f"the manifest names {part.path!r}, which is outside {folder}; use another copy of it")
        path = there.get(part.path)  # no path is made of what the manifest says: it may be no valid name of a file
        if path is None or not path.is_file() or _part(folder, path) != part:
            raise BackupDamaged(
                f"{part.path!r} in {folder} is missing or was changed since the backup; use another copy of it"
            )


def _upgraded(old: OldManifest, text: bytes) -> Manifest:
    tables = {PurePosixPath(part.path) for part in old.parts if part.path.startswith("database/")}
    agents = [part.path for part in old.parts if part.path.startswith("agents/")]
    return Manifest(
        backup_id=f"format-1-{hashlib.sha256(text).hexdigest()}",
        release=old.release,
        created_at=old.created_at,
        finished_at=old.created_at,
        state=(
            SavedState(
                name="file" if old.method == "file" else "database",
                method=old.method,
                at=old.created_at,
                tables=tuple(
                    SavedTable(name=path.stem, path=str(path), rows=old.rows.get(path.stem), digest=None)
                    for path in sorted(tables)
                ),
            ),
        ),
        agents=tuple(
            SavedAgent(agent_id=PurePosixPath(path).stem, path=path, left_out=(OLD_AGENTS_LACK,)) for path in agents
        ),
        parts=old.parts,
    )


def _part(folder: Path, path: Path) -> Part:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Part(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)

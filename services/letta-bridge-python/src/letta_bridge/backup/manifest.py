"""What a backup holds, with a checksum of each file. It is written last: without it a backup is not complete."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from shared_utils.errors import ServiceError

FILE: Final = "manifest.json"
Method = Literal["pg_dump", "copy", "file"]
"""How the state was saved: PostgreSQL's custom format, COPY text per table, or the SQLite session file."""


class BackupDamaged(ServiceError):
    """The backup is not what its manifest says."""

    code = "backup_damaged"


class Part(BaseModel):
    """One file."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Below the backup's directory."""
    size: int
    sha256: str


class Manifest(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    release: str
    created_at: datetime
    method: Method
    rows: dict[str, int]
    """Table → rows, where they were counted."""
    agents: int
    parts: tuple[Part, ...]


def parts_of(folder: Path) -> tuple[Part, ...]:
    """Every file of a backup but the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILE)
    return tuple(_part(folder, path) for path in files)


def write(folder: Path, manifest: Manifest) -> None:
    """Complete a backup."""
    (folder / FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """The manifest of a backup whose every file is as it was written.

    Raises:
        BackupDamaged: there is none, or a file is missing or changed.
    """
    try:
        manifest = Manifest.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        raise BackupDamaged(f"{folder} holds no complete backup ({FILE} is missing); name another directory") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise BackupDamaged(f"{folder / FILE} is not a manifest this release can read ({problem})") from None
    for part in manifest.parts:
        path = folder / part.path
        if not path.is_file() or _part(folder, path) != part:
            raise BackupDamaged(f"{path} is missing or was changed since the backup; use another copy of it")
    return manifest


def _part(folder: Path, path: Path) -> Part:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Part(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)

"""The manifest of a backup: every file with size and checksum, every table and agent with counts.

The manifest is written last and atomically: a directory without one is no backup. Format 1, of earlier releases, whose
agent files hold only the messages in context, can still be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from letta_bridge.backup.errors import BackupDamaged
from letta_bridge.backup.manifest_check import fault_of
from shared_utils.private_files import replacing

FILE: Final = "manifest.json"
UNFINISHED: Final = "unfinished"
"""Exists in a backup's directory while the backup is being made."""
OLD_AGENTS_LACK: Final = (
    "the backup is of an earlier release, whose agent files hold the messages in context only: older messages, "
    "archival memory and the ids that mark redelivered messages are not in it"
)

Place = Literal["database", "vectors", "file"]
"""The service's database, a database for vectors only, or the session file of a service without a database."""
Method = Literal["copy", "file", "pg_dump"]
"""COPY text per table, the SQLite session file, or (format 1 only) pg_dump's custom format."""

Moment = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))]
"""A time that every database and calculation can hold."""
BackupId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]
"""It becomes part of tags of agents and a key in databases."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Part(_Frozen):
    """One file."""

    path: str
    """Below the backup's directory."""
    size: int
    sha256: str


class SavedTable(_Frozen):
    """One table."""

    name: str
    path: str
    rows: int | None
    """None in format 1, where it was not counted."""
    digest: str | None
    """Of the content, independent of the order of rows; None in format 1."""


class SavedState(_Frozen):
    """The tables of one database, or the session file."""

    name: Place
    method: Method
    product: str = ""
    at: Moment
    """The moment of the snapshot."""
    tables: tuple[SavedTable, ...] = ()
    left_out: tuple[str, ...] = ()
    """Tables in the schema that are not the bridge's."""


class SavedAgent(_Frozen):
    """One agent."""

    agent_id: str
    path: str
    taken_at: Moment | None = None
    counts: Mapping[str, int] = {}
    """Part of the snapshot → number of items."""
    left_out: tuple[str, ...] = ()


class SkippedAgent(_Frozen):
    """An agent that is missing from the backup."""

    agent_id: str
    name: str
    reason: str
    harmless: bool
    """True where the agent was deleted meanwhile; otherwise an operator has to look at it."""


class Manifest(_Frozen):
    """The manifest, format 2."""

    format: Literal[2] = 2
    backup_id: BackupId
    release: str
    tenant: str | None = None
    """Whose agents and state it holds, "" for the default one; None where the release that made it did not note it."""
    created_at: Moment
    finished_at: Moment
    state: tuple[SavedState, ...]
    agents: tuple[SavedAgent, ...]
    skipped: tuple[SkippedAgent, ...] = ()
    not_saved: Mapping[str, int | str] = {}
    """Contents of Redis, which no backup holds: label → how much."""
    never_carried: tuple[str, ...] = ()
    erased: tuple[str, ...] = ()
    """Hex SHA-256 of the ids of users whose erasure was under way or began while the backup was made.

    Their rows may be in it, and a restore leaves them out. Earlier releases neither write nor read this."""
    erasures_unread: tuple[str, ...] = ()
    """Why such erasures may be missing in ``erased``, for people."""
    parts: tuple[Part, ...]

    @property
    def at(self) -> datetime:
        """The moment of the state's snapshot; with several databases, that of the first one."""
        return self.state[0].at

    @property
    def tables(self) -> tuple[SavedTable, ...]:
        """The tables of all databases."""
        return tuple(table for state in self.state for table in state.tables)

    @property
    def whole_agents(self) -> bool:
        """Whether agents were saved as complete snapshots, not as agent files of an earlier release."""
        return not any(agent.path.endswith(".af") for agent in self.agents)


class _OldManifest(_Frozen):
    format: Literal[1] = 1
    release: str
    created_at: Moment
    method: Method
    rows: dict[str, int]
    agents: int
    parts: tuple[Part, ...]


_ANY: Final[TypeAdapter[Manifest | _OldManifest]] = TypeAdapter(
    Annotated[Manifest | _OldManifest, Field(discriminator="format")]
)


def parts_of(folder: Path) -> tuple[Part, ...]:
    """Every file of a backup, without the manifest and the marker of an unfinished backup."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    about = {folder / FILE, folder / UNFINISHED}
    return tuple(_part(folder, path) for path in files if path not in about)


def write(folder: Path, manifest: Manifest) -> None:
    """Complete a backup."""
    (folder / UNFINISHED).unlink(missing_ok=True)
    with replacing(folder / FILE) as file:
        file.write(manifest.model_dump_json(indent=2).encode() + b"\n")


def read(folder: Path) -> Manifest:
    """Read the manifest of a backup, and verify every file of the directory against it.

    Raises:
        BackupDamaged: there is no manifest, it contradicts itself, or a file is missing, changed, or not named in it.
    """
    try:
        text = (folder / FILE).read_bytes()
    except FileNotFoundError:
        if (folder / UNFINISHED).exists():
            raise BackupDamaged(f"the backup in {folder} was never finished; make another one") from None
        raise BackupDamaged(f"{folder} holds no complete backup ({FILE} is missing); name another directory") from None
    except OSError as error:
        raise BackupDamaged(f"{folder / FILE} cannot be read ({error.strerror}); use another copy of it") from None
    try:
        found = _ANY.validate_json(text)
    except ValidationError as error:
        problem = " ".join(error.errors(include_url=False)[0]["msg"].split())  # it may quote what the manifest says
        raise BackupDamaged(f"{folder / FILE} is not a manifest this release can read ({problem})") from None
    try:
        _check(folder, found.parts)
    except OSError as error:
        raise BackupDamaged(f"{error.filename} cannot be read ({error.strerror}); use another copy of it") from None
    manifest = found if isinstance(found, Manifest) else _upgraded(found, text)
    if (fault := fault_of(manifest)) is not None:
        raise BackupDamaged(
            f"{folder / FILE} was changed: {fault}; nothing was changed. Use another copy of the backup"
        )
    return manifest


def _check(folder: Path, parts: tuple[Part, ...]) -> None:
    named = {part.path for part in parts}
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    for name, found in there.items():
        if found.is_symlink() or not (found.is_dir() or name in named or name == FILE):
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


def _upgraded(old: _OldManifest, text: bytes) -> Manifest:
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

"""The entries of a backup's manifest: files, tables, agents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

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
    """Owner of the agents and the state, "" for the default one; None in backups of releases that did not record it."""
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


class OldManifest(_Frozen):
    """What releases wrote that knew format 1."""

    format: Literal[1] = 1
    release: str
    created_at: Moment
    method: Method
    rows: dict[str, int]
    agents: int
    parts: tuple[Part, ...]

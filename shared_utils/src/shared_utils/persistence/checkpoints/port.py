"""Checkpoints, from which a piece of work can continue: the port, its records, its errors.

A thread is one piece of work. Its checkpoints form a tree: each names the one it followed, and two writers that go on
from the same one make two branches, of which none is lost. What a checkpoint holds is bytes to this package, with the
name of their encoding; only ``metadata`` is JSON, to be searched.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from shared_utils.persistence.errors import PersistenceError


def new_checkpoint_id() -> str:
    """An id that sorts by time."""
    return f"{time.time_ns():016x}-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and how they are encoded (``msgpack``, ``json`` …)."""

    kind: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """A value that a task of the step after a checkpoint produced; kept, so that the task need not run again."""

    task_id: str
    index: int
    """Position among the task's writes. Below zero: of a kind a task has one of, and a later one replaces it."""
    name: str
    """Of the value it goes to."""
    blob: Blob
    task_path: str = ""
    """Orders the tasks of one step."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One step of a thread."""

    thread_id: str
    state: Blob
    checkpoint_id: str = field(default_factory=new_checkpoint_id)
    """Sorts by time: the greatest of a thread and namespace is its latest."""
    namespace: str = ""
    """A thread within the thread; empty: the thread itself."""
    parent_id: str | None = None
    run_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Name → version of each value that belongs to it. A value is stored once per version, however many share it."""
    values: Mapping[str, Blob] = field(default_factory=dict)
    """When put: the values that are new. When read: all that ``versions`` names."""
    inherited: Collection[str] = ()
    """Names of values it has only through its ancestors: the nearest stored one, and the writes since."""
    writes: Sequence[Write] = ()
    """Read only; in the order the tasks were started."""
    created_at: datetime | None = None
    """Read only; by the store's clock."""


@dataclass(frozen=True, slots=True)
class History:
    """What a value was made of, before a checkpoint."""

    seed: Blob | None
    """The nearest ancestor's stored value; None: no ancestor has one."""
    writes: Sequence[Write]
    """Since then, oldest first, the seed's own step among them."""


@dataclass(frozen=True, slots=True)
class CheckpointCleanup:
    """What a cleanup did, or would do."""

    threads: int
    """Looked at."""
    removed: int
    """Checkpoints."""
    spared: int
    """Checkpoints past their time that a kept one inherits a value from."""


class CheckpointNeeded(PersistenceError):
    """A checkpoint cannot go because one that stays inherits from it."""

    code = "checkpoint_needed"


class ValuesMissing(PersistenceError):
    """A checkpoint refers to values that are not stored: put it again with them."""

    code = "values_missing"

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(f"values of the checkpoint are not stored ({', '.join(sorted(names))}); put them with it")
        self.names = frozenset(names)


class BaseCheckpoint(Protocol):
    """Checkpoints that outlive the process. Every method may raise PersistenceError."""

    async def setup(self) -> None:
        """Make what is missing: file, tables. Every other method does so too, on first use."""
        ...

    async def get(self, thread_id: str, namespace: str = "", checkpoint_id: str | None = None) -> Checkpoint | None:
        """One checkpoint; the latest where no id is given."""
        ...

    async def put(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint with its new values. Done again with the same id, state and metadata are replaced.

        Raises:
            ValuesMissing: a value of ``versions`` is neither in ``values`` nor stored.
            ValueRefused: an id is too long, or a value too large; it is named.
        """
        ...

    async def list(
        self,
        thread_id: str | None = None,
        namespace: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        checkpoint_id: str | None = None,
        before: str | None = None,
        after: Checkpoint | None = None,
        limit: int = 100,
    ) -> Sequence[Checkpoint]:
        """Checkpoints, latest id first.

        Args:
            thread_id: of this thread alone.
            namespace: of this namespace alone.
            metadata: whose metadata contain this, as PostgreSQL's ``@>`` means it.
            checkpoint_id: with this id alone.
            before: whose id is smaller than this one.
            after: go on after this one, the last of the page before.
            limit: at most so many.
        """
        ...

    async def delete(self, thread_id: str) -> int:
        """Remove a thread with all it has; returns how many checkpoints it had."""
        ...

    async def cleanup(
        self,
        *,
        older_than: timedelta | None = None,
        keep_last: int | None = None,
        thread_ids: Collection[str] | None = None,
        dry_run: bool = False,
    ) -> CheckpointCleanup:
        """Remove what is older than ``older_than``, and all but the ``keep_last`` latest of each namespace.

        A checkpoint that a kept one inherits a value from is spared.

        Args:
            older_than: None: age does not matter.
            keep_last: at least 1; None: number does not matter.
            thread_ids: these threads alone.
            dry_run: count, and remove nothing.
        """
        ...


class CheckpointStore(BaseCheckpoint, Protocol):
    """What a graph engine asks for beyond that."""

    async def put_writes(self, thread_id: str, namespace: str, checkpoint_id: str, writes: Sequence[Write]) -> None:
        """Keep what a task produced. The same task and index again changes nothing, but for indexes below zero."""
        ...

    async def history(
        self, thread_id: str, namespace: str, checkpoint_id: str | None, names: Collection[str]
    ) -> Mapping[str, History]:
        """What each of these values was made of before a checkpoint (the latest where no id is given)."""
        ...

    async def copy(self, source_id: str, target_id: str) -> int:
        """Give another thread all a thread has, whole ancestry included; returns how many checkpoints are new there."""
        ...

    async def delete_runs(self, run_ids: Collection[str]) -> int:
        """Remove the checkpoints these runs made; returns how many.

        Raises:
            CheckpointNeeded: one that stays inherits a value from one of them. Nothing is removed.
        """
        ...

    async def close(self) -> None:
        """Give back files and connections."""
        ...


__all__ = [
    "BaseCheckpoint",
    "Blob",
    "Checkpoint",
    "CheckpointCleanup",
    "CheckpointNeeded",
    "CheckpointStore",
    "History",
    "ValuesMissing",
    "Write",
    "new_checkpoint_id",
]

"""What every checkpoint store does, above the statements that PostgreSQL, openGauss and SQLite each have of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from shared_utils.persistence.checkpoints.lineage import Node, seeds
from shared_utils.persistence.checkpoints.port import (
    Blob,
    Checkpoint,
    CheckpointCleanup,
    History,
    ValuesMissing,
    Write,
)
from shared_utils.persistence.checkpoints.retention import Limits, cleanup, delete_runs
from shared_utils.persistence.checkpoints.rows import (
    Row,
    blob_of,
    checkpoint_of,
    checkpoint_row,
    json_text,
    node_of,
    require_key,
    require_size,
    value_keys,
    write_of,
    write_row,
)
from shared_utils.persistence.checkpoints.statements import Statements, Transactions

_ANCESTORS_PER_STATEMENT: Final = 256
"""Ancestors looked at in one statement."""
_MAX_BYTES: Final = 64 * 1024 * 1024


class StoredCheckpoints:
    """Checkpoints in tables.

    Args:
        transactions: where.
        max_bytes: of one state, value or write.
    """

    def __init__(self, transactions: Transactions, *, max_bytes: int = _MAX_BYTES) -> None:
        self._transactions = transactions
        self._max_bytes = max_bytes

    async def setup(self) -> None:
        """See :class:`BaseCheckpoint`."""
        await self._transactions.open()

    async def close(self) -> None:
        """See :class:`CheckpointStore`."""
        await self._transactions.close()

    async def get(self, thread_id: str, namespace: str = "", checkpoint_id: str | None = None) -> Checkpoint | None:
        """See :class:`BaseCheckpoint`."""
        params = {"thread_id": thread_id, "namespace": namespace, "checkpoint_id": checkpoint_id}
        found = await self._read("latest" if checkpoint_id is None else "one", params)
        return found[0] if found else None

    async def put(self, checkpoint: Checkpoint) -> None:
        """See :class:`BaseCheckpoint`."""
        row = self._fit(checkpoint)
        place = {"thread_id": checkpoint.thread_id, "namespace": checkpoint.namespace}
        versions = [{"name": name, "version": version} for name, version in checkpoint.versions.items()]
        held = [version for version in versions if version["name"] not in checkpoint.values]
        new = [
            {**version, "kind": blob.kind, "data": blob.data}
            for version in versions
            if (blob := checkpoint.values.get(version["name"])) is not None
        ]

        async def work(statements: Statements) -> None:
            await statements.lock(checkpoint.thread_id, alone=False)
            if held and (missing := await statements.rows("values_missing", place, held)):
                raise ValuesMissing({found["name"] for found in missing})
            if new:
                await statements.execute("insert_values", place, new)
            if not await statements.execute("insert_checkpoint", row):
                await statements.execute("update_checkpoint", row)

        await self._transactions.run(work)

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
        """See :class:`BaseCheckpoint`."""
        if thread_id is None:
            name = "page_of_all"
        elif namespace is None:
            name = "page_of_thread"
        else:
            name = "page_of_namespace"
        params = {
            "thread_id": thread_id,
            "namespace": namespace,
            "metadata": json_text(metadata or {}),
            "checkpoint_id": checkpoint_id,
            "before": before,
            "after_id": after and after.checkpoint_id,
            "after_namespace": after and after.namespace,
            "after_thread": after and after.thread_id,
            "limit": limit,
        }
        return await self._read(name, params)

    async def put_writes(self, thread_id: str, namespace: str, checkpoint_id: str, writes: Sequence[Write]) -> None:
        """See :class:`CheckpointStore`."""
        kept: dict[tuple[str, int], Write] = {}
        for write in writes:
            require_key(task_id=write.task_id, name=write.name)
            require_size(self._max_bytes, {f"a write to {write.name!r}": write.blob})
            if write.index < 0 or (write.task_id, write.index) not in kept:
                kept[write.task_id, write.index] = write
        if not kept:
            return
        require_key(thread_id=thread_id, namespace=namespace, checkpoint_id=checkpoint_id)
        place = {"thread_id": thread_id, "namespace": namespace, "checkpoint_id": checkpoint_id}
        rows = [write_row(write) for write in kept.values()]
        replaced = [{"task_id": task_id, "task_index": index} for task_id, index in kept if index < 0]

        async def work(statements: Statements) -> None:
            if replaced:
                await statements.execute("delete_replaced_writes", place, replaced)
            await statements.execute("insert_writes", place, rows)

        await self._transactions.run(work)

    async def history(
        self, thread_id: str, namespace: str, checkpoint_id: str | None, names: Collection[str]
    ) -> Mapping[str, History]:
        """See :class:`CheckpointStore`."""
        place = {"thread_id": thread_id, "namespace": namespace}

        async def work(statements: Statements) -> Mapping[str, History]:
            lineage = await _lineage(statements, place, checkpoint_id, names)
            found = seeds(lineage, names)
            reach = {name: found.get(name, len(lineage) - 1) for name in names}
            writes: defaultdict[str, list[Row]] = defaultdict(list)
            ids = [node.checkpoint_id for node in lineage[: max(reach.values(), default=-1) + 1]]
            if ids:
                params = {**place, "checkpoint_ids": ids, "names": sorted(names)}
                for row in await statements.rows("writes_to", params):
                    writes[row["checkpoint_id"]].append(row)
            keys = [{**place, "name": name, "version": lineage[at].versions[name]} for name, at in found.items()]
            values = {row["name"]: row for row in await statements.rows("values_of", {}, keys)} if keys else {}
            return {
                name: History(
                    blob_of(values[name]) if name in values else None,
                    [
                        write_of(row)
                        for checkpoint_id in reversed(ids[: reach[name] + 1])
                        for row in writes[checkpoint_id]
                        if row["name"] == name
                    ],
                )
                for name in names
            }

        return await self._transactions.run(work, snapshot=True) if names else {}

    async def copy(self, source_id: str, target_id: str) -> int:
        """See :class:`CheckpointStore`."""
        if source_id == target_id:
            return 0
        require_key(thread_id=target_id)
        params = {"source_id": source_id, "target_id": target_id}

        async def work(statements: Statements) -> int:
            for thread_id in sorted((source_id, target_id)):
                await statements.lock(thread_id, alone=False)
            # Checkpoints first: what another writer adds meanwhile is a value too many, never one too few.
            copied = await statements.execute("copy_checkpoints", params)
            await statements.execute("copy_values", params)
            await statements.execute("copy_writes", params)
            return copied

        return await self._transactions.run(work)

    async def delete(self, thread_id: str) -> int:
        """See :class:`BaseCheckpoint`."""
        params = {"thread_id": thread_id}

        async def work(statements: Statements) -> int:
            await statements.lock(thread_id, alone=True)
            removed = await statements.execute("delete_thread_checkpoints", params)
            await statements.execute("delete_thread_values", params)
            await statements.execute("delete_thread_writes", params)
            return removed

        return await self._transactions.run(work)

    async def delete_runs(self, run_ids: Collection[str]) -> int:
        """See :class:`CheckpointStore`."""
        runs = frozenset(run_ids)
        return await self._transactions.run(lambda statements: delete_runs(statements, runs)) if runs else 0

    async def cleanup(
        self,
        *,
        older_than: timedelta | None = None,
        keep_last: int | None = None,
        thread_ids: Collection[str] | None = None,
        dry_run: bool = False,
    ) -> CheckpointCleanup:
        """See :class:`BaseCheckpoint`."""
        limits = Limits(None if older_than is None else older_than.total_seconds(), keep_last)
        return await cleanup(self._transactions, limits, thread_ids, dry_run=dry_run)

    async def _read(self, name: str, params: Mapping[str, Any]) -> Sequence[Checkpoint]:
        async def work(statements: Statements) -> Sequence[Checkpoint]:
            rows = await statements.rows(name, params)
            return await filled(statements, rows)

        return await self._transactions.run(work, snapshot=True)

    def _fit(self, checkpoint: Checkpoint) -> dict[str, Any]:
        require_key(
            thread_id=checkpoint.thread_id,
            namespace=checkpoint.namespace,
            checkpoint_id=checkpoint.checkpoint_id,
            parent_id=checkpoint.parent_id,
            run_id=checkpoint.run_id,
        )
        for name, version in checkpoint.versions.items():
            require_key(name=name, version=version)
        require_size(self._max_bytes, {"the state": checkpoint.state})
        require_size(self._max_bytes, {f"the value {name!r}": blob for name, blob in checkpoint.values.items()})
        return checkpoint_row(checkpoint)


async def filled(statements: Statements, rows: Sequence[Row]) -> Sequence[Checkpoint]:
    """The checkpoints of these rows, with their values and writes."""
    if not rows:
        return []
    values: dict[tuple[str, ...], Blob] = {}
    if keys := value_keys(rows):
        for row in await statements.rows("values_of", {}, keys):
            values[row["thread_id"], row["namespace"], row["name"], row["version"]] = blob_of(row)
    places = [{part: row[part] for part in ("thread_id", "namespace", "checkpoint_id")} for row in rows]
    writes: defaultdict[tuple[str, ...], list[Write]] = defaultdict(list)
    for row in await statements.rows("writes_of", {}, places):
        writes[row["thread_id"], row["namespace"], row["checkpoint_id"]].append(write_of(row))
    return [
        checkpoint_of(row, values, writes[row["thread_id"], row["namespace"], row["checkpoint_id"]]) for row in rows
    ]


async def _lineage(
    statements: Statements, place: Mapping[str, str], checkpoint_id: str | None, names: Collection[str]
) -> Sequence[Node]:
    """The ancestors, parent first, as far as one of these names has its nearest stored value there."""
    if checkpoint_id is None:
        latest = await statements.rows("latest_id", place)
        checkpoint_id = latest[0]["checkpoint_id"] if latest else None
    chain: dict[str, Node] = {}
    while checkpoint_id is not None and checkpoint_id not in chain:
        params = {**place, "checkpoint_id": checkpoint_id, "limit": _ANCESTORS_PER_STATEMENT}
        rows = await statements.rows("lineage", params)
        chain |= {row["checkpoint_id"]: node_of(row, place["namespace"]) for row in rows}
        if not rows or len(seeds(list(chain.values())[1:], names)) == len(names):
            break
        checkpoint_id = rows[-1]["parent_id"]
    return list(chain.values())[1:]

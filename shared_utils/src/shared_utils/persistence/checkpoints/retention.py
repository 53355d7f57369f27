"""Removes checkpoints by age, number or run, except those that later ones inherit from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from shared_utils.persistence.checkpoints.lineage import Key, Thread
from shared_utils.persistence.checkpoints.port import CheckpointCleanup, CheckpointNeeded
from shared_utils.persistence.checkpoints.rows import Row, node_of
from shared_utils.persistence.checkpoints.statements import Statements, Transactions


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond which a checkpoint goes.

    Raises:
        ValueError: there is no limit, or one that would leave nothing.
    """

    seconds: float | None
    """Of age."""
    keep_last: int | None
    """In each namespace of a thread."""

    def __post_init__(self) -> None:
        if self.seconds is None and self.keep_last is None:
            raise ValueError("a cleanup without older_than and keep_last would remove nothing; set one of them")
        if self.keep_last is not None and self.keep_last < 1:
            raise ValueError(f"keep_last is {self.keep_last}, but must be at least 1; to remove a thread, delete it")


async def cleanup(
    transactions: Transactions, limits: Limits, thread_ids: Collection[str] | None, *, dry_run: bool
) -> CheckpointCleanup:
    """Remove what is beyond the limits, of these threads or of all.

    Each thread is a transaction of its own: its writers wait no longer than that one takes.
    """
    threads = sorted(set(thread_ids)) if thread_ids is not None else await _threads(transactions, limits)
    removed = spared = 0
    for thread_id in threads:
        gone, stayed = await transactions.run(_cleaning(thread_id, limits, dry_run=dry_run))
        removed, spared = removed + gone, spared + stayed
    if limits.seconds is not None and thread_ids is None and not dry_run:
        params = {"seconds": limits.seconds}
        await transactions.run(lambda statements: statements.execute("delete_stray_writes", params))
    return CheckpointCleanup(len(threads), removed, spared)


async def delete_runs(statements: Statements, run_ids: Collection[str]) -> int:
    """Remove the checkpoints of these runs; returns how many.

    Raises:
        CheckpointNeeded: another one inherits from one of them.
    """
    removed = 0
    for found in await statements.rows("threads_of_runs", {"run_ids": sorted(run_ids)}):
        thread_id = found["thread_id"]
        await statements.lock(thread_id, alone=True)
        rows = await statements.rows("nodes", {"thread_id": thread_id, "seconds": None})
        thread = _thread(rows)
        doomed = {_key(row) for row in rows if row["run_id"] in run_ids}
        if needed := thread.needed(doomed):
            raise CheckpointNeeded(
                f"{len(needed)} checkpoints of these runs in the thread {thread_id!r} contain values that later "
                "checkpoints use; nothing was removed: delete the later runs, too, or the whole thread"
            )
        removed += await _remove(statements, thread_id, thread, doomed)
    return removed


async def _threads(transactions: Transactions, limits: Limits) -> Sequence[str]:
    async def work(statements: Statements) -> Sequence[str]:
        found: list[Row] = []
        if limits.seconds is not None:
            found += await statements.rows("threads_too_old", {"seconds": limits.seconds})
        if limits.keep_last is not None:
            found += await statements.rows("threads_too_long", {"keep_last": limits.keep_last})
        return sorted({row["thread_id"] for row in found})

    return await transactions.run(work, snapshot=True)


def _cleaning(thread_id: str, limits: Limits, *, dry_run: bool) -> Callable[[Statements], Awaitable[tuple[int, int]]]:
    async def work(statements: Statements) -> tuple[int, int]:
        await statements.lock(thread_id, alone=not dry_run)
        rows = await statements.rows("nodes", {"thread_id": thread_id, "seconds": limits.seconds})
        thread = _thread(rows)
        doomed = {_key(row) for row in rows if row["too_old"]}
        if limits.keep_last is not None:
            doomed |= thread.beyond(limits.keep_last)
        needed = thread.needed(doomed)
        doomed -= needed
        if not dry_run:
            await _remove(statements, thread_id, thread, doomed)
        return len(doomed), len(needed)

    return work


async def _remove(statements: Statements, thread_id: str, thread: Thread, doomed: Collection[Key]) -> int:
    if not doomed:
        return 0
    params = {"thread_id": thread_id}
    keys = [{"namespace": namespace, "checkpoint_id": checkpoint_id} for namespace, checkpoint_id in sorted(doomed)]
    removed = await statements.execute("delete_checkpoints", params, keys)
    await statements.execute("delete_writes", params, keys)
    unused = [dict(zip(("namespace", "name", "version"), key, strict=True)) for key in thread.unused_values(doomed)]
    if unused:
        await statements.execute("delete_values", params, unused)
    return removed


def _thread(rows: Sequence[Row]) -> Thread:
    return Thread([node_of(row, row["namespace"]) for row in rows])


def _key(row: Row) -> Key:
    return row["namespace"], row["checkpoint_id"]

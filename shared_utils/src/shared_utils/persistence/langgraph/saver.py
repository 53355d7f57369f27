"""A LangGraph checkpointer on any of the checkpoint stores."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.base import Checkpoint as GraphCheckpoint
from langgraph.checkpoint.serde.base import SerializerProtocol

from shared_utils.persistence.checkpoints.port import Blob, Checkpoint, CheckpointStore, ValuesMissing, Write
from shared_utils.persistence.langgraph.blocking import BlockingMethods
from shared_utils.persistence.langgraph.config_key import ConfigKey, identity

_CHECKPOINTS_PER_PAGE: Final = 50
"""Checkpoints held in memory at once while a list is walked."""
_DELTA_COUNTERS: Final = "counters_since_delta_snapshot"
"""LangGraph's metadata about channels of which a checkpoint holds only what changed."""


class CheckpointSaver(BlockingMethods):
    """Keeps the steps of LangGraph's graphs in a checkpoint store.

    The asynchronous methods work in any event loop the store works in. The synchronous ones (``graph.invoke``) may be
    called from other threads than the one of the loop in which this object was made.

    Values are read as LangGraph's own serialiser does; set LANGGRAPH_STRICT_MSGPACK=true, so that whoever can write to
    the database cannot make it build objects of any type.

    Args:
        store: where they are kept; stays open.
        serde: how values become bytes.
    """

    def __init__(self, store: CheckpointStore, *, serde: SerializerProtocol | None = None) -> None:
        super().__init__(serde=serde)
        self.store = store

    async def setup(self) -> None:
        """Make the tables where they are missing; otherwise the first use does."""
        await self.store.setup()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that ``config`` names, or its thread's latest."""
        place = ConfigKey.of(config)
        checkpoint = await self.store.get(place.thread_id, place.namespace, place.checkpoint_id)
        return None if checkpoint is None else self._tuple(checkpoint)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, latest first.

        Args:
            config: of this thread, namespace (where it names one) and checkpoint (likewise); None: all.
            filter: whose metadata contain this.
            before: that are older than this one.
            limit: at most so many.
        """
        configurable = config.get("configurable", {}) if config else {}
        # One that is given must name a thread: None would list everybody's.
        given = "thread_id" in configurable
        thread_id = identity("thread_id", configurable["thread_id"]) if given else None
        namespace = configurable.get("checkpoint_ns")
        only = configurable.get("checkpoint_id")
        until = ConfigKey.of(before).checkpoint_id if before else None
        after: Checkpoint | None = None
        while limit is None or limit > 0:
            size = _CHECKPOINTS_PER_PAGE if limit is None else min(limit, _CHECKPOINTS_PER_PAGE)
            page = await self.store.list(
                thread_id,
                namespace,
                metadata=filter,
                before=until,
                checkpoint_id=only,
                after=after,
                limit=size,
            )
            for checkpoint in page:
                yield self._tuple(checkpoint)
            if len(page) < size:
                return
            after = page[-1]
            limit = None if limit is None else limit - size

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: GraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a step; returns the config that names it."""
        place = ConfigKey.of(config)
        values = checkpoint["channel_values"]
        stored = self._checkpoint(place, checkpoint, config, metadata)
        try:
            await self.store.put(replace(stored, values=self._blobs(values, stored.versions, new_versions)))
        except ValuesMissing as missing:
            # A cleanup took what only older steps had, or they were stored under another thread.
            every = self._blobs(values, stored.versions, {*new_versions, *missing.names})
            await self.store.put(replace(stored, values=every))
        return place.config(checkpoint["id"])

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task produced on top of the step that ``config`` names."""
        place = ConfigKey.of(config)
        if place.checkpoint_id is None:
            raise ValueError("writes belong to a checkpoint; the config names none")
        rows = [
            Write(task_id, WRITES_IDX_MAP.get(channel, index), channel, self._blob(value), task_path)
            for index, (channel, value) in enumerate(writes)
        ]
        await self.store.put_writes(place.thread_id, place.namespace, place.checkpoint_id, rows)

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread with all it has."""
        await self.store.delete(identity("thread_id", thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove what these runs stored.

        Raises:
            CheckpointNeeded: a later run's delta channels are built on it. Nothing is removed.
        """
        await self.store.delete_runs([identity("run_id", run_id) for run_id in run_ids])

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Give another thread all a thread has, with its whole ancestry."""
        source, target = (identity("thread_id", one) for one in (source_thread_id, target_thread_id))
        await self.store.copy(source, target)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Shorten threads.

        Args:
            thread_ids: which.
            strategy: ``keep_latest`` keeps each namespace's latest step and the ones its delta channels are built on;
                ``delete`` removes the threads.
        """
        threads = [identity("thread_id", thread_id) for thread_id in thread_ids]
        match strategy:
            case "keep_latest":
                await self.store.cleanup(keep_last=1, thread_ids=threads)
            case "delete":
                for thread_id in threads:
                    await self.store.delete(thread_id)
            case _:
                raise ValueError(f"there is no pruning strategy {strategy!r}; it is keep_latest or delete")

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What each delta channel was made of before a step: its nearest stored value, and the writes since."""
        place = ConfigKey.of(config)
        found = await self.store.history(place.thread_id, place.namespace, place.checkpoint_id, channels)
        result: dict[str, DeltaChannelHistory] = {}
        for channel, history in found.items():
            writes = [(write.task_id, write.name, self._value(write.blob)) for write in history.writes]
            result[channel] = DeltaChannelHistory(writes=writes)
            if history.seed is not None:
                result[channel]["seed"] = self._value(history.seed)
        return result

    def get_next_version(self, current: str | None, channel: None) -> str:
        """A version above ``current`` that no other writer makes: two branches must not share one."""
        del channel
        count = int(str(current).partition(".")[0]) if current else 0
        return f"{count + 1:020}.{uuid.uuid4().hex[:16]}"

    def _checkpoint(
        self, place: ConfigKey, checkpoint: GraphCheckpoint, config: RunnableConfig, metadata: CheckpointMetadata
    ) -> Checkpoint:
        """As it is stored, but for its values."""
        found: dict[str, Any] = dict(get_serializable_checkpoint_metadata(config, metadata))
        versions = {
            name: str(version)
            for name, version in checkpoint["channel_versions"].items()
            if name in checkpoint["channel_values"]
        }
        loose = {name: value for name, value in checkpoint["channel_values"].items() if name not in versions}
        run_id = found.get("run_id")
        return Checkpoint(
            thread_id=place.thread_id,
            state=self._blob({**checkpoint, "channel_values": loose}),
            checkpoint_id=checkpoint["id"],
            namespace=place.namespace,
            parent_id=place.checkpoint_id,
            run_id=None if run_id is None else str(run_id),
            metadata=found,
            versions=versions,
            inherited=[name for name in found.get(_DELTA_COUNTERS) or () if name not in versions],
        )

    def _tuple(self, checkpoint: Checkpoint) -> CheckpointTuple:
        place = ConfigKey(checkpoint.thread_id, checkpoint.namespace, checkpoint.checkpoint_id)
        state: GraphCheckpoint = self._value(checkpoint.state)
        values = {name: self._value(blob) for name, blob in checkpoint.values.items()}
        return CheckpointTuple(
            config=place.config(checkpoint.checkpoint_id),
            checkpoint={**state, "channel_values": {**state["channel_values"], **values}},
            metadata=checkpoint.metadata,  # type: ignore[arg-type]  # a TypedDict of what put stored
            parent_config=None if checkpoint.parent_id is None else place.config(checkpoint.parent_id),
            pending_writes=[(write.task_id, write.name, self._value(write.blob)) for write in checkpoint.writes],
        )

    def _blobs(self, values: Mapping[str, Any], versions: Mapping[str, str], names: Collection[str]) -> dict[str, Blob]:
        return {name: self._blob(values[name]) for name in versions if name in names}

    def _blob(self, value: Any) -> Blob:
        return Blob(*self.serde.dumps_typed(value))

    def _value(self, blob: Blob) -> Any:
        return self.serde.loads_typed((blob.kind, blob.data))

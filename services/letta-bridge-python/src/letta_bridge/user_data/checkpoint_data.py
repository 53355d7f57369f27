"""Checkpoints of other programs in the same database whose metadata name the user, as LangGraph's do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.port import Counts
from shared_utils.persistence.checkpoints.port import BaseCheckpoint, Checkpoint

_CHECKPOINTS_PER_PAGE: Final = 50
_USER_FIELD: Final = "user_id"


class CheckpointUserData:
    """See :class:`UserDataStore`. A thread that names other users, too, is counted and left alone."""

    name: Final = "checkpoints"

    def __init__(self, store: BaseCheckpoint) -> None:
        self._store = store

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        own, shared = await self._threads(user_id)
        return {"checkpoint_threads": len(own), "shared_checkpoint_threads": len(shared)}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`. Without the values, which only the program that wrote them can read."""
        own, _ = await self._threads(user_id)
        lines: list[dict[str, Any]] = []
        for thread_id in own:
            async for checkpoint in self._all(thread_id=thread_id):
                about = {name: value for name, value in asdict(checkpoint).items() if name in _TOLD}
                lines.append(about)
        write_json_lines(folder / "checkpoints.jsonl", lines)
        return {"checkpoint_threads": len(own)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        own, _ = await self._threads(user_id)
        for thread_id in own:
            await self._store.delete(thread_id)
        return {"checkpoint_threads": len(own)}

    async def _threads(self, user_id: str) -> tuple[set[str], set[str]]:
        """Threads that are this user's alone, and those that others share."""
        forms: list[str | int] = [user_id]
        if user_id.isdecimal() and str(int(user_id)) == user_id:
            forms.append(int(user_id))
        named = {one.thread_id for form in forms async for one in self._all(metadata={_USER_FIELD: form})}
        shared = {thread_id for thread_id in named if not await self._only(thread_id, user_id)}
        return named - shared, shared

    async def _only(self, thread_id: str, user_id: str) -> bool:
        async for checkpoint in self._all(thread_id=thread_id):
            user = checkpoint.metadata.get(_USER_FIELD)
            if user is not None and str(user) != user_id:
                return False
        return True

    async def _all(self, **where: Any) -> AsyncIterator[Checkpoint]:
        after: Checkpoint | None = None
        while page := await self._store.list(**where, after=after, limit=_CHECKPOINTS_PER_PAGE):
            for checkpoint in page:
                yield checkpoint
            after = page[-1]


_TOLD: Final = frozenset({"thread_id", "namespace", "checkpoint_id", "parent_id", "metadata", "created_at"})

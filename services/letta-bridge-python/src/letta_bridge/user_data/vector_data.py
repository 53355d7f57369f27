"""The user's vectors, with the texts they were made of: turns and passages of all their agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.port import Counts
from shared_utils.persistence.vectors import Passage, PassageStore
from shared_utils.persistence.vectors.memories import user_scope

_PASSAGES_PER_PAGE: Final = 1000


class VectorUserData:
    """See :class:`UserDataStore`. Comes after what the vectors are made from, or a worker makes them once more."""

    name: Final = "vectors"

    def __init__(self, store: PassageStore) -> None:
        self._store = store

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        return {"vectors": len([None async for _ in self._all(user_id)])}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`. Only the texts; vectors contain no further information."""
        lines = [
            {"passage_id": passage.passage_id, "text": passage.text, "metadata": dict(passage.metadata)}
            async for passage in self._all(user_id)
        ]
        return {"vectors": write_json_lines(folder / "vectors.jsonl", lines)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        return {"vectors": await self._store.delete(user_scope(user_id))}

    async def _all(self, user_id: str) -> AsyncIterator[Passage]:
        after: str | None = None
        while True:
            page = await self._store.page(user_scope(user_id), limit=_PASSAGES_PER_PAGE, after=after)
            for passage in page.passages:
                yield passage
            after = page.next
            if after is None:
                return

"""What memory-python keeps of a user in Redis; its key names are its public contract (services/memory-python)."""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.trace import Counts
from shared_utils.redis_connection import RedisClient
from shared_utils.text import read_json

_GLOBAL_CONTEXT: Final = "memory:global_context"


class ShortTermTrace:
    """See :class:`Trace`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def count(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        return {"short_term_messages": len(await self._messages(user_id)) + len(await self._in_context(user_id))}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`Trace`."""
        messages = (await self._messages(user_id))[::-1]
        return {"short_term_messages": write_json_lines(folder / "short_term_messages.jsonl", messages)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        gone = len(await self._messages(user_id))
        messages = _messages_key(user_id)
        for key in (
            messages,
            f"memory:seen:{{{messages}}}",
            f"memory:seen:{messages}",
            f"memory:summary_pause:{messages}",
        ):
            await self._client.delete(key)
        for record in await self._in_context(user_id):
            gone += await self._client.lrem(_GLOBAL_CONTEXT, 0, cast("str", record))
        return {"short_term_messages": gone}

    async def _messages(self, user_id: str) -> list[bytes]:
        return cast("list[bytes]", await self._client.lrange(_messages_key(user_id), 0, -1))

    async def _in_context(self, user_id: str) -> list[bytes]:
        """Their messages in the list of everybody's latest, which memory-python keeps short."""
        records = cast("list[bytes]", await self._client.lrange(_GLOBAL_CONTEXT, 0, -1))
        return [record for record in records if _user(record) == user_id]


def _messages_key(user_id: str) -> str:
    return f"memory:user_sessions:{user_id}"


def _user(record: bytes) -> str | None:
    try:
        return str(read_json(record)["user_id"])
    except (ValueError, KeyError, TypeError):
        return None

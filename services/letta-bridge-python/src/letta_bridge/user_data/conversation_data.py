"""The user's conversations in the database, the journal's and any other's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.port import Counts
from shared_utils.persistence.conversations.records import Conversation, Message
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.private_files import file_name

_CONVERSATIONS_PER_PAGE: Final = 100


class ConversationUserData:
    """See :class:`UserDataStore`."""

    name: Final = "conversations"

    def __init__(self, service: ConversationService) -> None:
        self._service = service

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        return {"conversations": len(await self._all(user_id))}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`. A file for each conversation: first itself, then its messages in order."""
        conversations = await self._all(user_id)
        for conversation in conversations:
            messages = await self._messages(conversation.id)
            lines = [conversation.model_dump(), *(message.model_dump() for message in messages)]
            # The id is whatever an application chose.
            write_json_lines(folder / "conversations" / file_name(conversation.id, ".jsonl"), lines)
        return {"conversations": len(conversations)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        gone = [await self._service.delete(conversation.id) for conversation in await self._all(user_id)]
        return {"conversations": sum(gone)}

    async def _all(self, user_id: str) -> list[Conversation]:
        found: list[Conversation] = []
        after: str | None = None
        while True:
            page = await self._service.of_user(user_id, limit=_CONVERSATIONS_PER_PAGE, after=after)
            found += page.rows
            after = page.next
            if after is None:
                return found

    async def _messages(self, conversation_id: str) -> list[Message]:
        found: list[Message] = []
        before: str | None = None
        while True:
            page = await self._service.history(conversation_id, limit=_CONVERSATIONS_PER_PAGE, before=before)
            found = [*page.rows, *found]
            before = page.next
            if before is None:
                return found

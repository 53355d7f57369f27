"""Conversations as an application uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from shared_utils.persistence.conversations.records import CONVERSATIONS, MESSAGES, Conversation, Message, Role
from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.errors import RowMissing
from shared_utils.persistence.repositories.repository import BaseRepository, Page, PostgresRepository, Where, present
from shared_utils.persistence.statements import statements
from shared_utils.text import clean_text

_SQL: Final = statements("conversations")
_ROWS_PER_PURGE: Final = 1000
"""Rows deleted in one transaction: others wait for them no longer than that takes."""
_MAX_SEARCHED_MESSAGES: Final = 10_000
"""Messages a search looks at, newest first."""
_LONGEST_TEXT: Final = 200
_MOST_FOUND: Final = 200


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that has no place yet."""

    role: Role
    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation, and its last messages."""

    conversation: Conversation
    messages: Sequence[Message]
    """In the order they were said."""
    earlier: str | None
    """``before`` of the page before them; None where there is none."""


class ConversationService:
    """Conversations in one database. Every method may raise a PersistenceError.

    Args:
        database: where they are.
        source: who writes the conversations made here, and whose are purged here.
    """

    def __init__(self, database: Database, *, source: str = "") -> None:
        self._database = database
        self._source = source
        self.conversations: BaseRepository[Conversation] = PostgresRepository(database, CONVERSATIONS)
        self.messages: BaseRepository[Message] = PostgresRepository(database, MESSAGES)

    async def create(
        self, title: str = "", *, user_id: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Conversation:
        """A new conversation."""
        return await self.conversations.add(
            Conversation(title=title, user_id=user_id, source=self._source, metadata=dict(metadata or {}))
        )

    async def get(self, conversation_id: str, *, limit: int = 50) -> Transcript:
        """A conversation with its last messages.

        Raises:
            RowMissing: there is none of this id.
        """
        conversation = await self.conversations.get(conversation_id)
        page = await self.history(conversation_id, limit=limit)
        return Transcript(conversation, page.rows, page.next)

    async def history(self, conversation_id: str, *, limit: int = 50, before: str | None = None) -> Page[Message]:
        """A page of messages, the last ones first page first, each page in the order they were said.

        Args:
            conversation_id: whose; none of it, no messages.
            limit: messages of a page.
            before: ``next`` of the page that comes after it in time.
        """
        where = Where("conversation_id", "=", conversation_id)
        page = await self.messages.filter(where, limit=limit, after=before, newest_first=True)
        return Page(page.rows[::-1], page.next)

    async def of_user(self, user_id: str, *, limit: int = 50, after: str | None = None) -> Page[Conversation]:
        """A user's conversations, the newest first."""
        return await self.conversations.filter(
            Where("user_id", "=", user_id), limit=limit, after=after, newest_first=True
        )

    async def add_message(
        self, conversation_id: str, role: Role, content: str, metadata: Mapping[str, Any] | None = None
    ) -> Message:
        """Add a message at the end.

        Raises:
            RowMissing: there is no such conversation.
        """
        [message] = await self.add_messages(conversation_id, [NewMessage(role, content, metadata or {})])
        return message

    async def add_messages(self, conversation_id: str, messages: Sequence[NewMessage]) -> Sequence[Message]:
        """Add messages at the end, all or none; nobody else's come between them.

        Raises:
            RowMissing: there is no such conversation.
        """
        identity = {"id": clean_text(conversation_id)}

        async def work(connection: Connection) -> Sequence[Message]:
            touched = await self._database.rows(connection, _SQL["touch"], identity)
            if not touched:
                raise RowMissing(f"{CONVERSATIONS.name} has no row {conversation_id}")
            [last] = await self._database.rows(connection, _SQL["last_ordinal"], identity)
            placed = [
                Message(
                    conversation_id=identity["id"],
                    ordinal=last["ordinal"] + number,
                    role=new.role,
                    content=clean_text(new.content),
                    metadata=dict(new.metadata),
                    created_at=touched[0]["updated_at"],
                )
                for number, new in enumerate(messages, 1)
            ]
            if placed:
                await self._database.send(connection, MESSAGES.insert_all, MESSAGES.rows(placed))
            return placed

        return await self._database.run(work)

    async def rename(self, conversation_id: str, title: str) -> Conversation:
        """Give a conversation another title.

        Raises:
            RowMissing: there is no such conversation.
        """
        params = {"id": clean_text(conversation_id), "title": clean_text(title)}
        rows = await self._database.fetch(_SQL["rename"], params)
        return present(CONVERSATIONS.read(rows[0]) if rows else None, CONVERSATIONS, conversation_id)

    async def delete(self, conversation_id: str) -> bool:
        """Remove a conversation and its messages; False where there was none."""
        return await self.conversations.delete(conversation_id)

    async def search(
        self, text: str, *, user_id: str | None = None, conversation_id: str | None = None, limit: int = 20
    ) -> Sequence[Message]:
        """Messages that hold ``text``, whatever its case, the newest first.

        Looked at are the last 10 000 messages of the conversation, of the user, or of all: a search is bounded, and
        no index helps it on every database.

        Args:
            text: 1 to 200 characters.
            user_id: only this user's.
            conversation_id: only this conversation's.
            limit: 1 to 200.

        Raises:
            ValueError: text or limit is out of bounds.
        """
        if not 1 <= len(text) <= _LONGEST_TEXT or not 1 <= limit <= _MOST_FOUND:
            raise ValueError(
                f"a search takes 1 to {_LONGEST_TEXT} characters and finds 1 to {_MOST_FOUND} messages, not "
                f"{len(text)} and {limit}"
            )
        params: dict[str, Any] = {
            "pattern": f"%{_literally(clean_text(text))}%",
            "depth": _MAX_SEARCHED_MESSAGES,
            "most": limit,
        }
        name = "search"
        if conversation_id is not None:
            name, params["conversation_id"] = "search_conversation", clean_text(conversation_id)
        elif user_id is not None:
            name, params["user_id"] = "search_user", clean_text(user_id)
        return [MESSAGES.read(row) for row in await self._database.fetch(_SQL[name], params)]

    async def record(self, conversations: Sequence[Conversation], messages: Sequence[Message]) -> int:
        """Write what is not there yet, in one transaction; the same again changes nothing.

        Args:
            conversations: those of the messages; one that is there already stays as it is.
            messages: with their ids, ordinals and times.

        Returns:
            How many messages were new.
        """
        if not messages:
            return 0
        latest: dict[str, datetime] = {}
        for message in messages:
            before = latest.get(message.conversation_id, message.created_at)
            latest[message.conversation_id] = max(before, message.created_at)
        # In one order everywhere: two that record the same conversations at once do not lock each other out.
        ids = sorted(latest)
        named = {conversation.id: conversation for conversation in conversations}
        of_conversations = CONVERSATIONS.rows([named[key] for key in sorted(named)])
        of_messages = MESSAGES.rows(list({message.id: message for message in messages}.values()))

        async def work(connection: Connection) -> int:
            send = self._database.send
            await send(connection, CONVERSATIONS.insert_new, of_conversations)
            # Locked first: no conversation goes before its messages are in.
            await send(connection, _SQL["touch_all"], {"ids": ids, "times": [latest[key] for key in ids]})
            return (await send(connection, MESSAGES.insert_new, of_messages)).rowcount

        return await self._database.run(work)

    async def take_back(self, messages: Sequence[Message]) -> None:
        """Remove these messages of one conversation, and the conversation where it is empty then."""
        ids, conversation = [message.id for message in messages], messages[0].conversation_id

        async def work(connection: Connection) -> None:
            # Locked first: whoever is adding to it has done so before it is looked at.
            await self._database.rows(connection, _SQL["lock"], {"id": conversation})
            await self._database.send(connection, _SQL["delete_messages"], {"ids": ids})
            await self._database.send(connection, _SQL["delete_empty"], {"id": conversation})

        await self._database.run(work)

    async def purge(self, older_than: timedelta) -> int:
        """Remove this source's messages older than that, by the database's clock, and conversations left empty.

        Returns:
            How many messages were removed.
        """
        params = {"seconds": older_than.total_seconds(), "source": self._source, "most": _ROWS_PER_PURGE}
        removed = await self._in_batches(_SQL["purge_messages"], params)
        await self._in_batches(_SQL["purge_conversations"], params)
        return removed

    async def _in_batches(self, statement: str, params: Mapping[str, Any]) -> int:
        removed = 0
        while True:
            count = await self._database.execute(statement, params)
            removed += count
            if count < _ROWS_PER_PURGE:
                return removed


def _literally(text: str) -> str:
    """The text as a LIKE pattern that means itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

"""What a user may choose: whether an agent remembers. It lies in the metadata of the user's sessions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from shared_utils.persistence.sessions import Session, SessionStore, StaleSession

_KEY: Final = "permanent_memory"
_MOST: Final = 1000
"""Active sessions of one user; there is one per persona."""
_TRIES: Final = 5


class UserSettings:
    """The settings of users, over all their personas.

    Args:
        store: where sessions lie.
        personas: those an agent may have. A user who wants no memory gets a session of each, so that none begins one.
        forget: told (user, persona) of each session that changed.
    """

    def __init__(
        self, store: SessionStore, personas: Collection[str], forget: Callable[[str, str], None] | None = None
    ) -> None:
        self._store = store
        self._personas = personas
        self._forget = forget

    async def permanent_memory(self, user_id: str) -> bool:
        """Whether agents remember this user; a user nobody knows has chosen nothing, so they do."""
        return all(session.permanent_memory for session in await self._sessions(user_id))

    async def set_permanent_memory(self, user_id: str, wanted: bool) -> int:
        """Switch it for every persona; returns how many sessions were changed.

        Raises:
            SessionStoreError: the store is away, or somebody else keeps writing the same session.
        """
        personas = {session.persona for session in await self._sessions(user_id)}
        if not wanted:
            personas |= set(self._personas)
        return sum([await self._switched(user_id, persona, wanted) for persona in sorted(personas)])

    async def _switched(self, user_id: str, persona: str, wanted: bool) -> bool:
        for _ in range(_TRIES - 1):
            try:
                return await self._switch(user_id, persona, wanted)
            except StaleSession:
                continue  # a bridge wrote it meanwhile
        return await self._switch(user_id, persona, wanted)

    async def _switch(self, user_id: str, persona: str, wanted: bool) -> bool:
        session = await self._store.reserve(user_id, persona)
        if session.permanent_memory == wanted:
            return False
        await self._store.save(replace(session, metadata={**session.metadata, _KEY: wanted}))
        if self._forget is not None:
            self._forget(user_id, persona)
        return True

    async def _sessions(self, user_id: str) -> Collection[Session]:
        return (await self._store.page(limit=_MOST, user_id=user_id)).sessions

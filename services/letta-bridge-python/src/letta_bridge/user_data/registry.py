"""Lists the stores that may contain data of a user, in the order of erasing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from letta_bridge.letta.factory import agent_store, letta_client
from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.agent_data import AgentUserData
from letta_bridge.user_data.checkpoint_data import CheckpointUserData
from letta_bridge.user_data.conversation_data import ConversationUserData
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.lane import UserLane
from letta_bridge.user_data.port import UserDataStore
from letta_bridge.user_data.queue_data import QueueUserData
from letta_bridge.user_data.redis_search import RedisSearch
from letta_bridge.user_data.session_data import SessionFileUserData, SessionUserData
from letta_bridge.user_data.short_term_data import ShortTermUserData
from letta_bridge.user_data.upload_data import UploadUserData
from letta_bridge.user_data.vector_data import VectorUserData
from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.choices.database_store import DatabaseChoiceStore
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.log import DatabaseErasureLog, ErasureLog, FileErasureLog
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.vectors.memories import can_be_kept, open_memories
from shared_utils.redis.connection import close, connect

_REDIS_TIMEOUT = 30.0


@asynccontextmanager
async def user_data(
    settings: BridgeSettings, *, patience: float, hold_patience: float | None = None
) -> AsyncIterator[UserData]:
    """All places of this installation.

    Waiting tasks are first, so that they do not write new data; vectors come after their sources.

    Args:
        settings: the bridge's; its Redis account must be allowed to read the short-term memory.
        patience: seconds to wait for a turn in flight.
        hold_patience: seconds to wait for another erasure of the same user; by default as many.
    """
    async with AsyncExitStack() as held:
        client = connect(settings.redis, name="letta-bridge-user", timeout=_REDIS_TIMEOUT)
        held.push_async_callback(close, client)
        letta = letta_client(settings.letta)
        held.push_async_callback(letta.close)
        agents = AgentUserData(letta, agent_store(letta), settings.tenant.name)
        held.push_async_callback(agents.close)
        stores: list[UserDataStore] = [
            QueueUserData(client, settings.queue),
            ShortTermUserData(client, settings.fallback.queue),
            agents,
        ]
        path = settings.session_file
        audit: ErasureLog = FileErasureLog(settings.tenant_dir / "erasures.jsonl")
        in_database = settings.database.db_url is not None
        in_file = SessionFileUserData(path, "sessions_in_file" if in_database else "sessions")
        held.push_async_callback(in_file.close)
        stores.append(in_file)
        if in_database:
            database = Database(settings.database)
            held.push_async_callback(database.close)
            audit = DatabaseErasureLog(database)
            stores += [
                ConversationUserData(ConversationService(database)),
                CheckpointUserData(DatabaseCheckpoints(database)),
                SessionUserData(DatabaseSessionStore(database), choices=DatabaseChoiceStore(database)),
            ]
        if can_be_kept(settings.vectors, settings.database):
            vectors = open_memories(settings.vectors, settings.database)
            held.push_async_callback(vectors.close)
            stores.append(VectorUserData(vectors))
        stores.append(UploadUserData(settings.upload_dir))
        personas = tuple(settings.agents.personas)
        lane = UserLane(client, settings.queue, patience, hold_patience=hold_patience, personas=personas)
        yield UserData(stores, audit, lane, RedisSearch(client, settings))

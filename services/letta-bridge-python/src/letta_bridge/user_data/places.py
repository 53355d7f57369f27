"""Where something of a user may lie in this installation, in the order in which it is erased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from letta_bridge.letta.connection import agent_store, letta_client
from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.agent_trace import AgentTrace
from letta_bridge.user_data.checkpoint_trace import CheckpointTrace
from letta_bridge.user_data.conversation_trace import ConversationTrace
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.lane import UserLane
from letta_bridge.user_data.queue_trace import QueueTrace
from letta_bridge.user_data.redis_search import RedisSearch
from letta_bridge.user_data.session_trace import SessionFileTrace, SessionTrace
from letta_bridge.user_data.short_term_trace import ShortTermTrace
from letta_bridge.user_data.trace import Trace
from letta_bridge.user_data.upload_trace import UploadTrace
from letta_bridge.user_data.vector_trace import VectorTrace
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

    What waits goes first, so that nothing is written down again; vectors come after what they are made from.

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
        agents = AgentTrace(letta, agent_store(letta), settings.tenant.name)
        held.push_async_callback(agents.close)
        traces: list[Trace] = [
            QueueTrace(client, settings.queue),
            ShortTermTrace(client, settings.fallback.queue),
            agents,
        ]
        path = settings.session_file
        audit: ErasureLog = FileErasureLog(settings.tenant_dir / "erasures.jsonl")
        in_database = settings.database.db_url is not None
        in_file = SessionFileTrace(path, "sessions_in_file" if in_database else "sessions")
        held.push_async_callback(in_file.close)
        traces.append(in_file)
        if in_database:
            database = Database(settings.database)
            held.push_async_callback(database.close)
            audit = DatabaseErasureLog(database)
            traces += [
                ConversationTrace(ConversationService(database)),
                CheckpointTrace(DatabaseCheckpoints(database)),
                SessionTrace(DatabaseSessionStore(database), choices=DatabaseChoiceStore(database)),
            ]
        if can_be_kept(settings.vectors, settings.database):
            vectors = open_memories(settings.vectors, settings.database)
            held.push_async_callback(vectors.close)
            traces.append(VectorTrace(vectors))
        traces.append(UploadTrace(settings.upload_dir))
        personas = tuple(settings.agents.personas)
        lane = UserLane(client, settings.queue, patience, hold_patience=hold_patience, personas=personas)
        yield UserData(traces, audit, lane, RedisSearch(client, settings))

"""Where something of a user may lie in this installation, in the order in which it is erased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from letta_bridge.letta.connection import letta_client
from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.agent_trace import AgentTrace
from letta_bridge.user_data.conversation_trace import ConversationTrace
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.queue_trace import QueueTrace
from letta_bridge.user_data.session_trace import SessionFileTrace, SessionTrace
from letta_bridge.user_data.short_term_trace import ShortTermTrace
from letta_bridge.user_data.trace import Trace
from letta_bridge.user_data.vector_trace import VectorTrace
from shared_utils.memories import can_be_kept, open_memories
from shared_utils.persistence.conversation_service import ConversationService
from shared_utils.persistence.database import Database
from shared_utils.persistence.database_sessions import DatabaseSessionStore
from shared_utils.persistence.erasures import DatabaseErasureLog, ErasureLog, FileErasureLog
from shared_utils.persistence.file_sessions import FileSessionStore
from shared_utils.persistence.sessions import SessionStore
from shared_utils.redis_connection import close, connect

_REDIS_TIMEOUT = 30.0


@asynccontextmanager
async def user_data(settings: BridgeSettings, *, patience: float) -> AsyncIterator[UserData]:
    """All places of this installation.

    What waits goes first, so that nothing is written down again; the session comes after its agent, so that an erasure
    that breaks off between the two still finds the agent.

    Args:
        settings: the bridge's; its Redis account must be allowed to read the short-term memory.
        patience: seconds to wait for a turn in flight.
    """
    async with AsyncExitStack() as held:
        client = connect(settings.redis, name="letta-bridge-user", timeout=_REDIS_TIMEOUT)
        held.push_async_callback(close, client)
        letta = letta_client(settings.letta)
        held.push_async_callback(letta.close)
        traces: list[Trace] = [QueueTrace(client, settings.queue, patience), AgentTrace(letta, settings.tenant.name)]
        path = settings.session_file
        audit: ErasureLog = FileErasureLog(settings.tenant_dir / "erasures.jsonl")
        sessions: SessionStore = FileSessionStore(path)
        if settings.database.db_url is not None:
            database = Database(settings.database)
            sessions, audit = DatabaseSessionStore(database), DatabaseErasureLog(database)
            in_file = SessionFileTrace(path)
            held.push_async_callback(in_file.close)
            traces += [ConversationTrace(ConversationService(database)), in_file]
        held.push_async_callback(sessions.close)
        if can_be_kept(settings.vectors, settings.database):
            vectors = open_memories(settings.vectors, settings.database)
            held.push_async_callback(vectors.close)
            traces.append(VectorTrace(vectors))
        traces += [SessionTrace(sessions), ShortTermTrace(client)]
        yield UserData(traces, audit)

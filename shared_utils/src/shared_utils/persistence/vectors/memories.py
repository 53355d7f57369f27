"""Long-term memories of users in the passage store, for the service that writes them and those that recall them."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from shared_utils.llm.embeddings import Embedder, HttpEmbedder
from shared_utils.observability import logs
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.vectors import (
    DatabasePassageStore,
    PassageStore,
    Scope,
    VectorSettings,
    vector_database,
)
from shared_utils.text import clean_text

_log = logs.get("shared_utils.memories")

EmbedderNow = Callable[[], Awaitable[Embedder]]
"""Returns the embedder for the next texts; model and vectors must match."""

Kind = Literal["turn", "passage"]
"""``metadata["kind"]``: a turn of the journal, or a passage of an agent's archival memory."""

_MAX_USER_ID_LENGTH: Final = 400
_MAX_CONNECTIONS: Final = 4
"""Maximum connections, separate so that no reply waits for one."""


def user_source(user_id: str) -> str:
    """The ``source_id`` of everything that is one user's, of whatever persona; no two users have the same."""
    if len(user_id) <= _MAX_USER_ID_LENGTH and clean_text(user_id) == user_id:
        return f"user:{user_id}"
    return f"user-sha256:{hashlib.sha256(user_id.encode(errors='surrogatepass')).hexdigest()}"


def source_hash(source_id: str) -> str | None:
    """Hex SHA-256 of the id of the user whose ``source_id`` this is; None where it is no user's."""
    if source_id.startswith("user-sha256:"):
        return source_id.removeprefix("user-sha256:")
    if source_id.startswith("user:"):
        return hashlib.sha256(source_id.removeprefix("user:").encode(errors="surrogatepass")).hexdigest()
    return None


def user_scope(user_id: str) -> Scope:
    """The scope of searches for a user: only the user's own passages."""
    return Scope.source(user_source(user_id))


def open_memories(vectors: VectorSettings, database: DatabaseConfig) -> DatabasePassageStore:
    """The store, with connections of its own; nothing is asked of the database yet.

    Raises:
        SettingsError: the vectors' own database is not named well.
    """
    config = vector_database(vectors, database)
    few = {"max_connections": min(config.max_connections, _MAX_CONNECTIONS), "min_connections": 0}
    return DatabasePassageStore(Database(config.model_copy(update=few)), vectors)


def can_be_kept(vectors: VectorSettings, database: DatabaseConfig) -> bool:
    """Whether there is a database for them."""
    return vectors.opengauss.enabled or database.db_url is not None


def embedder_of(store: PassageStore, configured: HttpEmbedder) -> EmbedderNow:
    """Gives an embedder of the model whose vectors the store has.

    The configured model counts where there are none yet. Else it takes over in the moment the command ``vectors
    reembed`` has changed over to it, in every process, and nobody is without memories meanwhile.
    """
    told = ""

    async def now() -> Embedder:
        nonlocal told
        current = await store.current_model()
        if current is None or current.name == configured.model:
            return configured
        if told != current.name:
            told = current.name
            _log.warning("other_embedding_model", stored=current.name, configured=configured.model)
        return configured.instead(current.name, current.dimensions)

    return now

"""Removes the rows of erased users from restored tables, inside the transaction that restores them.

The rows are those that an erasure of the user removes from the same tables. A table is compared as a whole with the
checksum of its file, so rows cannot be left out while it is copied in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from shared_utils.persistence.choices.port import imported_opt_out
from shared_utils.persistence.database.connections import Connection
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.table_copy.kept_rows import merge_choices
from shared_utils.persistence.table_copy.tables import statement
from shared_utils.persistence.vectors.memories import source_hash

_OF_USERS: Final = ("agent_sessions", "agent_messages", "agent_conversations")
_OF_THREADS: Final = ("agent_checkpoint_writes", "agent_checkpoint_values", "agent_checkpoints")


async def remove_erased(
    connection: Connection, schema: str, hashes: Collection[str], vectors: Sequence[str], removed: dict[str, int]
) -> set[str]:
    """Remove the rows of these users. A thread of checkpoints that other users share is left alone.

    An opt-out that stands in a session of an earlier release becomes a choice, which outlives an erasure.

    Args:
        connection: in a transaction.
        schema: that of the tables.
        hashes: hex SHA-256 of the ids of erased users.
        vectors: the tables of embeddings.
        removed: table → number of rows, is added to.

    Returns:
        The hashes of users who had rows.
    """
    if not hashes:
        return set()
    users = [user for user in await _texts(connection, "users", schema) if user_hash(user) in hashes]
    if users:
        values = {"users": users}
        opted_out = await _texts(connection, "legacy_opt_outs", schema, values)
        choices = map(imported_opt_out, opted_out)
        await merge_choices(
            connection, schema, [(one.user_key, one.permanent_memory, one.chosen_ms) for one in choices]
        )
        threads = {"threads": await _texts(connection, "threads_of_users", schema, values)}
        for tables, parameters in ((_OF_USERS, values), (_OF_THREADS, threads)):
            for table in tables:
                gone = await connection.execute(statement(f"remove_{table}", schema), parameters)
                removed[table] = removed.get(table, 0) + gone.rowcount
    found = set(map(user_hash, users))
    for table in vectors:
        sources = {source: source_hash(source) for source in await _texts(connection, "sources", schema, table=table)}
        theirs = [source for source, digest in sources.items() if digest in hashes]
        gone = await connection.execute(statement("remove_vectors", schema, table=table), {"sources": theirs})
        removed[table] = removed.get(table, 0) + gone.rowcount
        found.update(digest for source in theirs if (digest := sources[source]) is not None)
    return found


async def _texts(
    connection: Connection, name: str, schema: str, values: Mapping[str, object] | None = None, **gaps: str
) -> list[str]:
    cursor = await connection.execute(statement(name, schema, **gaps), values)
    return [str(text) for (text,) in await cursor.fetchall()]

"""Everything in the schema goes out as text and comes back the same, from each engine to each."""

from __future__ import annotations

import psycopg
import pytest

from shared_utils.persistence.database import Database
from shared_utils.persistence.errors import Conflict
from shared_utils.persistence.table_copy import copy_in, copy_out

pytestmark = pytest.mark.integration

_FILL = """
    INSERT INTO agent_sessions (session_id, user_id, persona, agent_id, session_data, metadata, created_at,
                                last_updated, expires_at, version, is_active, changed_at)
    SELECT 's' || i, %(user)s || i, 'default', CASE WHEN i %% 3 = 0 THEN NULL ELSE 'agent-' || i END,
           %(data)s, '{}'::jsonb, now(), now(), NULL, i, i %% 2 = 0, now()
    FROM generate_series(1, 500) AS i
"""
_ROWS = "SELECT * FROM agent_sessions ORDER BY session_id"


async def test_out_and_in_again(database, database_config, tmp_path):
    text = '{"说": "它\\"\\\\ \\t\\n 一 %% {}", "n": 1.5, "null": null}'
    await database.execute(_FILL, {"user": "用户\t\\N ", "data": psycopg.types.json.Jsonb({"text": text})})
    before = await database.fetch(_ROWS)
    counts = await copy_out(database_config, tmp_path / "out")
    assert counts["agent_sessions"] == len(before) == 500
    with pytest.raises(Conflict, match="empty"):
        await copy_in(database_config, tmp_path / "out")
    other = database_config.model_copy(update={"schema_name": f"{database_config.schema_name}_again"})
    copied = Database(other)
    try:
        assert await copy_in(other, tmp_path / "out") == counts
        assert await copied.fetch(_ROWS) == before
    finally:
        await copied.execute(f"DROP SCHEMA {other.schema_name} CASCADE")
        await copied.close()


async def test_a_damaged_file_leaves_nothing_behind(database, database_config, tmp_path):
    await database.execute(_FILL, {"user": "u", "data": psycopg.types.json.Jsonb({})})
    await copy_out(database_config, tmp_path)
    await database.execute("DELETE FROM agent_sessions")
    file = tmp_path / "agent_sessions.copy"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(Exception, match=r"refused|cannot hold"):
        await copy_in(database_config, tmp_path)
    assert await database.fetch(_ROWS) == []

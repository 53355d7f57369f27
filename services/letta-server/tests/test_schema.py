"""Is the schema we make the one that Letta's own 167 migrations make?

``data/schema-0.16.8.json`` is what ``catalog`` below reads from a PostgreSQL 16 database on which the migrations of
Letta's release 0.16.8 were run (``CREATE EXTENSION vector``, then ``alembic upgrade head``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

REFERENCE = Path(__file__).parent / "data" / "schema-0.16.8.json"

QUERIES = {
    "columns": """
        SELECT c.relname || '.' || a.attname,
               format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
               || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
    """,
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "constraints": """
        SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    """,
    "types": """
        SELECT typname, string_agg(enumlabel, ', ' ORDER BY enumsortorder)
        FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid GROUP BY 1
    """,
    "sequences": "SELECT sequencename, data_type || ' from ' || start_value FROM pg_sequences",
    "stamp": "SELECT 'revision', version_num FROM alembic_version",
}

ACCEPTED = {
    # The models name a primary key where the migrations left a unique constraint on the same columns, or none.
    "constraints agents_tags.unique_agent_tag",
    "constraints tools_agents.unique_agent_tool",
    "constraints blocks_agents.blocks_agents_pkey",
    "indexes blocks_agents_pkey",
    # The models' primary key is the id alone; the migrations added columns to it that the id determines anyway.
    "constraints file_contents.file_contents_pkey",
    "indexes file_contents_pkey",
    "constraints files_agents.files_agents_pkey",
    "indexes files_agents_pkey",
    # Two indexes that no migration makes, for looking up blocks by tag.
    "indexes ix_blocks_tags_block_id_tag",
    "indexes ix_blocks_tags_tag_block_id",
    # A default where the migrations have none; Letta always gives a value.
    "columns messages.created_at",
    "columns organizations.created_at",
    "columns users.created_at",
    # CURRENT_TIMESTAMP and now() are the same.
    "columns identities.created_at",
    "columns identities.updated_at",
    # '[]'::jsonb and '[]'::json as the default of a json column are the same.
    "columns identities.properties",
    # A type that a migration left behind; no column has it.
    "types stopreasontype",
}


ON_OPENGAUSS = ACCEPTED | {
    # UNIQUE NULLS NOT DISTINCT as a unique index in which a text stands for NULL.
    "constraints identities.unique_identifier_key_project_id_organization_id",
    "indexes unique_identifier_key_project_id_organization_id",
    "constraints tools.uix_organization_project_name",
    "indexes uix_organization_project_name",
}
FUNCTIONS = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE '%uuid%'"


def catalog(connection: Any) -> dict[str, dict[str, str]]:
    connection.execute("SET search_path TO public")
    return {kind: dict(sorted(connection.execute(query).fetchall())) for kind, query in QUERIES.items()}


@pytest.mark.parametrize(
    ("server", "accepted", "helpers"),
    [("postgresql", ACCEPTED, []), ("opengauss-6.0.2", ON_OPENGAUSS, ["gen_random_uuid"])],
    indirect=["server"],
)
def test_the_schema_equals_the_migrated_one_but_for_the_listed_differences_and_works(
    letta_server: Any, postgres: Any, server: Any, database: str, accepted: set[str], helpers: list[str]
) -> None:
    code, said = letta_server.run("init", settings=server.variables(database))
    assert code == 0, said
    # Read from the PostgreSQL below: the catalog's own functions are not all there on openGauss.
    with postgres.connect(database) as connection:
        ours = catalog(connection)
        made = [name for (name,) in connection.execute(FUNCTIONS)]
    reference = json.loads(REFERENCE.read_text("utf-8"))
    assert len({name.partition(".")[0] for name in ours["columns"]}) == 49
    different = {
        f"{kind} {name}"
        for kind, ref in reference.items()
        for name in ref.keys() | ours[kind].keys()
        if ref.get(name) != ours[kind].get(name)
    }
    assert different == accepted
    assert made == helpers
    with server.connect(database) as connection:
        numbers_itself_and_takes_null_for_one_value(connection)


def numbers_itself_and_takes_null_for_one_value(connection: Any) -> None:
    """What the hand-made objects are there for, tried on the server itself."""
    connection.execute("INSERT INTO organizations (id, name, privileged_tools) VALUES ('o', 'o', false)")
    connection.execute("INSERT INTO agents (id, organization_id, message_buffer_autoclear) VALUES ('a', 'o', false)")
    message = "INSERT INTO messages (id, role, organization_id, agent_id, tool_calls) VALUES (%s, '', 'o', 'a', '[]')"
    for number in ("1", "2"):
        connection.execute(message, [number])
    assert connection.execute("SELECT id, sequence_id FROM messages ORDER BY 1").fetchall() == [("1", 1), ("2", 2)]
    assert connection.execute("SELECT length(gen_random_uuid()::text)").fetchone() == (36,)
    identity = (
        "INSERT INTO identities (id, identifier_key, name, identity_type, organization_id, project_id, properties) "
        "VALUES (%s, 'k', 'n', 'user', 'o', %s, '[]')"
    )
    connection.execute(identity, ["1", None])
    connection.execute(identity, ["2", ""])
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(identity, ["3", None])

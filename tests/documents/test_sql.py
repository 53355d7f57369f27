"""A statement that the services send is known by docs/sql.md, and no other."""

from __future__ import annotations

from shared_utils.persistence.catalogue import known


def test_a_statement_is_known_however_it_is_spaced_and_in_either_dialect() -> None:
    insert = (
        'INSERT INTO "letta_bridge"."agent_conversations" '
        '("id", "user_id", "source", "title", "metadata", "created_at", "updated_at") '
        'SELECT "id", "user_id", "source", "title", "metadata"::jsonb, "created_at", "updated_at" FROM '
        '(SELECT unnest(%(id)s::text[]) AS "id", unnest(%(user_id)s::text[]) AS "user_id", '
        'unnest(%(source)s::text[]) AS "source", unnest(%(title)s::text[]) AS "title", '
        'unnest(%(metadata)s::text[]) AS "metadata", unnest(%(created_at)s::timestamptz[]) AS "created_at", '
        'unnest(%(updated_at)s::timestamptz[]) AS "updated_at") AS given'
    )
    assert known(insert)
    assert known(f"{insert}\n  ON CONFLICT   DO NOTHING")
    assert known(f"{insert} ON DUPLICATE KEY UPDATE NOTHING")
    assert not known(f"{insert} ON CONFLICT (id) DO NOTHING")


def test_filters_are_known_by_their_conditions() -> None:
    begin, end = 'SELECT count(*) AS rows FROM "letta_bridge"."agent_messages"', '"role" = %(where_0)s::text'
    assert known(f'{begin} WHERE {end} AND "content" IS NULL AND "ordinal" = ANY(%(where_12)s::bigint[])')
    assert not known(f"{begin} WHERE {end} OR {end}")
    assert not known(f"{begin} WHERE \"role\" = 'user'")
    assert not known(f"{begin} WHERE {end} AND ")

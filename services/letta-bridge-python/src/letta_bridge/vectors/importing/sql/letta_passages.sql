-- What is asked of a Letta's own database, SQLite, PostgreSQL or openGauss. {embedding}, {after} and {most} are written
-- as each takes them. Letta 0.6 to 0.10 has agent_passages, 0.11 and later archival_passages; both have source_passages.

-- name: archival_passages
-- An archive several agents share is its owner's.
SELECT p.id, p.text, {embedding} AS embedding, p.embedding_config, p.created_at, NULL AS source_id, (
    SELECT a.agent_id FROM archives_agents a WHERE a.archive_id = p.archive_id
    ORDER BY a.is_owner DESC, a.agent_id LIMIT 1
) AS agent_id
FROM archival_passages p WHERE NOT p.is_deleted AND p.id > {after} ORDER BY p.id LIMIT {most};

-- name: agent_passages
SELECT p.id, p.text, {embedding} AS embedding, p.embedding_config, p.created_at, NULL AS source_id, p.agent_id
FROM agent_passages p WHERE NOT p.is_deleted AND p.id > {after} ORDER BY p.id LIMIT {most};

-- name: source_passages
SELECT p.id, p.text, {embedding} AS embedding, p.embedding_config, p.created_at, p.source_id, NULL AS agent_id
FROM source_passages p WHERE NOT p.is_deleted AND p.id > {after} ORDER BY p.id LIMIT {most};

-- name: count_archival_passages
SELECT count(*) AS passages FROM archival_passages WHERE NOT is_deleted;

-- name: count_agent_passages
SELECT count(*) AS passages FROM agent_passages WHERE NOT is_deleted;

-- name: count_source_passages
SELECT count(*) AS passages FROM source_passages WHERE NOT is_deleted;

-- name: agents_tags
SELECT agent_id, tag FROM agents_tags;

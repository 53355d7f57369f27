-- Embeddings of passages. In the gaps stand the table of one model, the columns that are read, the conditions of scope
-- and filter, and as distance the operator of the metric between embedding and query.

-- name: vector_type
SELECT pg_type.oid AS oid, typname, nspname, (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS version
FROM pg_type JOIN pg_namespace ON pg_namespace.oid = typnamespace
WHERE typname IN ('vector', 'halfvec') AND pg_type_is_visible(pg_type.oid);

-- name: create_extension
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;

-- name: models
SELECT table_number, model, dimensions, kind, metric, state,
       EXISTS (SELECT 1
               FROM pg_index
               JOIN pg_class ON pg_class.oid = pg_index.indexrelid
               JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
               WHERE nspname = %(schema)s AND indisvalid
                 AND relname = collection || '_' || table_number || '_nearest') AS indexed
FROM {schema}.vector_models WHERE collection = %(collection)s
ORDER BY CASE state WHEN 'current' THEN 1 WHEN 'filling' THEN 2 ELSE 3 END, table_number;

-- name: lock_models
SELECT pg_advisory_xact_lock(%(key)s);

-- name: add_model
INSERT INTO {schema}.vector_models (collection, table_number, model, dimensions, kind, metric, state, created_at)
VALUES (%(collection)s, %(table_number)s, %(model)s, %(dimensions)s, %(kind)s, %(metric)s, %(state)s, now());

-- name: set_state
UPDATE {schema}.vector_models SET state = %(state)s WHERE collection = %(collection)s AND table_number = %(table_number)s;

-- name: remove_model
DELETE FROM {schema}.vector_models WHERE collection = %(collection)s AND table_number = %(table_number)s;

-- name: drop_table
DROP TABLE IF EXISTS {schema}.{table};

-- name: write
-- Adds what is new and changes what has another hash. Nothing is written where a passage belongs to somebody else, or
-- the model has been retired.
WITH given AS MATERIALIZED (
         SELECT unnest(%(passage_id)s::text[]) AS passage_id, unnest(%(agent_id)s::text[]) AS agent_id,
                unnest(%(source_id)s::text[]) AS source_id, unnest(%(content_hash)s::text[]) AS content_hash
     ),
     known AS MATERIALIZED (
         SELECT passage.passage_id, passage.content_hash <> given.content_hash AS changed,
                passage.agent_id IS NOT DISTINCT FROM given.agent_id
                AND passage.source_id IS NOT DISTINCT FROM given.source_id AS same_owner
         FROM given JOIN {schema}.{table} AS passage ON passage.passage_id = given.passage_id
     ),
     fit AS MATERIALIZED (
         SELECT 1 AS one
         WHERE NOT EXISTS (SELECT 1 FROM known WHERE NOT same_owner)
           AND EXISTS (SELECT 1 FROM {schema}.vector_models
                       WHERE collection = %(collection)s AND table_number = %(table_number)s AND state <> 'retired')
     ),
     changed AS (
         UPDATE {schema}.{table} AS passage
         SET embedding = newer.embedding, metadata = newer.metadata, text = newer.text,
             content_hash = newer.content_hash, updated_at = clock_timestamp()
         FROM (SELECT unnest(%(passage_id)s::text[]) AS passage_id, {embeddings} AS embedding,
                      unnest(%(metadata)s::text[])::jsonb AS metadata, unnest(%(text)s::text[]) AS text,
                      unnest(%(content_hash)s::text[]) AS content_hash) AS newer
         WHERE EXISTS (SELECT 1 FROM fit) AND EXISTS (SELECT 1 FROM known WHERE known.changed)
           AND passage.passage_id = newer.passage_id AND passage.content_hash <> newer.content_hash
         RETURNING 1
     ),
     added AS (
         INSERT INTO {schema}.{table} (passage_id, embedding, embedding_dim, model, metadata, agent_id, source_id, text,
                              content_hash, created_at, updated_at)
         SELECT passage_id, embedding, %(dimensions)s::integer, %(model)s::text, metadata, agent_id, source_id, text,
                content_hash, clock_timestamp(), clock_timestamp()
         FROM (SELECT unnest(%(passage_id)s::text[]) AS passage_id, {embeddings} AS embedding,
                      unnest(%(metadata)s::text[])::jsonb AS metadata, unnest(%(agent_id)s::text[]) AS agent_id,
                      unnest(%(source_id)s::text[]) AS source_id, unnest(%(text)s::text[]) AS text,
                      unnest(%(content_hash)s::text[]) AS content_hash) AS newer
         WHERE EXISTS (SELECT 1 FROM fit) AND passage_id NOT IN (SELECT known.passage_id FROM known)
         RETURNING 1
     )
SELECT (SELECT count(*) FROM added) AS added, (SELECT count(*) FROM changed) AS changed,
       EXISTS (SELECT 1 FROM fit) AS fit,
       (SELECT min(passage_id) FROM known WHERE NOT same_owner) AS taken;

-- name: hashes
SELECT passage_id, content_hash FROM {schema}.{table} WHERE passage_id = ANY(%(passage_ids)s::text[]);

-- name: get
SELECT {columns} FROM {schema}.{table} AS passage WHERE passage_id = ANY(%(passage_ids)s::text[]) AND {conditions};

-- name: page
SELECT {columns} FROM {schema}.{table} AS passage
WHERE passage_id > %(after)s AND {conditions}
ORDER BY passage_id LIMIT %(limit)s;

-- name: delete
DELETE FROM {schema}.{table} AS passage WHERE {conditions} RETURNING passage_id;

-- name: delete_these
DELETE FROM {schema}.{table} AS passage WHERE passage_id = ANY(%(passage_ids)s::text[]) AND {conditions} RETURNING passage_id;

-- name: few
-- Whether few enough passages are asked about to compare the query with each.
SELECT count(*) AS found FROM (SELECT 1 FROM {schema}.{table} AS passage WHERE {conditions} LIMIT %(most)s) AS few;

-- name: nearest_exact
SELECT {columns}, {distance} AS distance
FROM {schema}.{table} AS passage
WHERE {conditions}
ORDER BY distance, passage_id LIMIT %(limit)s;

-- name: nearest_indexed
-- The limit stands in the text, so that the plan is made for it; the conditions are such as no other index serves.
SELECT {columns}, {distance} AS distance
FROM {schema}.{table} AS passage
WHERE CASE WHEN {conditions} THEN true ELSE false END
ORDER BY {distance} LIMIT {limit};

-- name: nearest_widened
-- For servers whose index gives up after so many passages, whatever the conditions left of them.
SELECT {columns}, distance
FROM (SELECT passage.*, {distance} AS distance FROM {schema}.{table} AS passage ORDER BY {distance} LIMIT {width}) AS passage
WHERE {conditions}
ORDER BY distance LIMIT {limit};

-- name: widen_iterative
SELECT set_config('hnsw.ef_search', %(width)s, {local}), set_config('hnsw.iterative_scan', 'relaxed_order', {local});

-- name: widen_extension
SELECT set_config('hnsw.ef_search', %(width)s, {local});

-- name: widen_builtin
SELECT set_config('hnsw_ef_search', %(width)s, {local});

-- name: try_lock
-- The key stands in the text, so that the simple protocol is used: it keeps no snapshot, for which a build would wait.
SELECT pg_try_advisory_xact_lock({key}) AS locked;

-- name: unlimited
SET statement_timeout = 0;

-- name: limited
SET statement_timeout = {milliseconds};

-- name: index_memory
SET maintenance_work_mem = '{megabytes}MB';

-- name: one_worker
SET max_parallel_maintenance_workers = 0;

-- name: reset_memory
RESET maintenance_work_mem;

-- name: reset_workers
RESET max_parallel_maintenance_workers;

-- name: drop_index
DROP INDEX CONCURRENTLY IF EXISTS {schema}.{index};

-- name: create_nearest
CREATE INDEX CONCURRENTLY {index} ON {schema}.{table} USING hnsw ({embedding} {operators})
WITH (m = {m}, ef_construction = {ef_construction});

-- name: create_metadata
CREATE INDEX CONCURRENTLY {index} ON {schema}.{table} USING gin (metadata);

-- name: rename_index
ALTER INDEX {schema}.{index} RENAME TO {name};

-- name: indexes
SELECT relname, indisvalid FROM pg_index
JOIN pg_class ON pg_class.oid = pg_index.indexrelid
JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
WHERE nspname = %(schema)s AND relname = ANY(%(names)s::text[]);

-- name: locked
SELECT 1 AS found FROM pg_locks
WHERE locktype = 'advisory' AND classid::bigint = 0 AND objid::bigint = %(key)s AND objsubid = 1;

-- name: size
SELECT count(*) AS passages, pg_table_size('{schema}.{table}'::regclass) AS table_bytes,
       pg_indexes_size('{schema}.{table}'::regclass) AS index_bytes
FROM {schema}.{table};

-- name: only_in
SELECT count(*) AS passages FROM {schema}.{table} AS passage
WHERE NOT EXISTS (SELECT 1 FROM {schema}.{other} AS other WHERE other.passage_id = passage.passage_id);

-- name: outdated
-- Passages whose embedding of the new model is missing, or older than what was written since.
SELECT {columns} FROM {schema}.{table} AS passage
WHERE passage_id > %(after)s
  AND NOT EXISTS (SELECT 1 FROM {schema}.{other} AS other
                  WHERE other.passage_id = passage.passage_id
                    AND (other.content_hash = passage.content_hash OR other.updated_at >= passage.updated_at))
ORDER BY passage_id LIMIT %(limit)s;

-- name: hold
-- Whoever deletes one of these meanwhile waits, and then deletes its new embedding as well.
SELECT passage_id, content_hash FROM {schema}.{table} WHERE passage_id = ANY(%(passage_ids)s::text[]) FOR SHARE;

-- name: lock_writes
LOCK TABLE {schema}.{table} IN SHARE ROW EXCLUSIVE MODE;

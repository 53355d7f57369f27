-- Checkpoints in PostgreSQL and openGauss. Where a parameter is a list, its elements belong to those of the others.

-- name: lock_shared
SELECT pg_advisory_xact_lock_shared(%(key)s::bigint)

-- name: lock_alone
SELECT pg_advisory_xact_lock(%(key)s::bigint)

-- name: one
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM {schema}.agent_checkpoints
WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s AND checkpoint_id = %(checkpoint_id)s

-- name: latest
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM {schema}.agent_checkpoints
WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s
ORDER BY checkpoint_id DESC
LIMIT 1

-- name: page_of_namespace
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM {schema}.agent_checkpoints
WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s AND metadata @> %(metadata)s::jsonb
      AND (%(checkpoint_id)s::text IS NULL OR checkpoint_id = %(checkpoint_id)s::text)
      AND (%(before)s::text IS NULL OR checkpoint_id < %(before)s::text)
      AND (%(after_id)s::text IS NULL OR checkpoint_id < %(after_id)s::text)
ORDER BY checkpoint_id DESC
LIMIT %(limit)s

-- name: page_of_thread
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM {schema}.agent_checkpoints
WHERE thread_id = %(thread_id)s AND metadata @> %(metadata)s::jsonb
      AND (%(checkpoint_id)s::text IS NULL OR checkpoint_id = %(checkpoint_id)s::text)
      AND (%(before)s::text IS NULL OR checkpoint_id < %(before)s::text)
      AND (%(after_id)s::text IS NULL
           OR (checkpoint_id, namespace) < (%(after_id)s::text, %(after_namespace)s::text))
ORDER BY checkpoint_id DESC, namespace DESC
LIMIT %(limit)s

-- name: page_of_all
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM {schema}.agent_checkpoints
WHERE metadata @> %(metadata)s::jsonb
      AND (%(namespace)s::text IS NULL OR namespace = %(namespace)s::text)
      AND (%(checkpoint_id)s::text IS NULL OR checkpoint_id = %(checkpoint_id)s::text)
      AND (%(before)s::text IS NULL OR checkpoint_id < %(before)s::text)
      AND (%(after_id)s::text IS NULL
           OR (checkpoint_id, namespace, thread_id)
              < (%(after_id)s::text, %(after_namespace)s::text, %(after_thread)s::text))
ORDER BY checkpoint_id DESC, namespace DESC, thread_id DESC
LIMIT %(limit)s

-- name: values_of
SELECT thread_id, namespace, name, version, kind, data
FROM {schema}.agent_checkpoint_values
WHERE (thread_id, namespace, name, version) IN (
    SELECT unnest(%(thread_id)s::text[]), unnest(%(namespace)s::text[]), unnest(%(name)s::text[]),
           unnest(%(version)s::text[]))

-- name: writes_of
SELECT thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind, data
FROM {schema}.agent_checkpoint_writes
WHERE (thread_id, namespace, checkpoint_id) IN (
    SELECT unnest(%(thread_id)s::text[]), unnest(%(namespace)s::text[]), unnest(%(checkpoint_id)s::text[]))
ORDER BY task_path, task_id, task_index

-- name: values_missing
SELECT name
FROM (SELECT unnest(%(name)s::text[]) AS name, unnest(%(version)s::text[]) AS version) wanted
WHERE NOT EXISTS (
    SELECT 1 FROM {schema}.agent_checkpoint_values held
    WHERE held.thread_id = %(thread_id)s AND held.namespace = %(namespace)s AND held.name = wanted.name
          AND held.version = wanted.version)

-- name: insert_values
INSERT INTO {schema}.agent_checkpoint_values (thread_id, namespace, name, version, kind, data)
SELECT %(thread_id)s::text, %(namespace)s::text, unnest(%(name)s::text[]), unnest(%(version)s::text[]),
       unnest(%(kind)s::text[]), unnest(%(data)s::bytea[])
{or_ignore}

-- name: insert_checkpoint
INSERT INTO {schema}.agent_checkpoints (thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata,
                               value_names, value_versions, inherited, created_at)
VALUES (%(thread_id)s, %(namespace)s, %(checkpoint_id)s, %(parent_id)s, %(run_id)s, %(kind)s, %(state)s,
        %(metadata)s::jsonb, %(value_names)s::text[], %(value_versions)s::text[], %(inherited)s::text[], now())
{or_ignore}

-- name: update_checkpoint
UPDATE {schema}.agent_checkpoints
SET parent_id = %(parent_id)s, run_id = %(run_id)s, kind = %(kind)s, state = %(state)s,
    metadata = %(metadata)s::jsonb, value_names = %(value_names)s::text[],
    value_versions = %(value_versions)s::text[], inherited = %(inherited)s::text[]
WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s AND checkpoint_id = %(checkpoint_id)s

-- name: insert_writes
INSERT INTO {schema}.agent_checkpoint_writes (thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind,
                                     data, created_at)
SELECT %(thread_id)s::text, %(namespace)s::text, %(checkpoint_id)s::text, unnest(%(task_id)s::text[]),
       unnest(%(task_index)s::integer[]), unnest(%(task_path)s::text[]), unnest(%(name)s::text[]),
       unnest(%(kind)s::text[]), unnest(%(data)s::bytea[]), now()
{or_ignore}

-- name: delete_replaced_writes
DELETE FROM {schema}.agent_checkpoint_writes
WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s AND checkpoint_id = %(checkpoint_id)s
      AND (task_id, task_index) IN (SELECT unnest(%(task_id)s::text[]), unnest(%(task_index)s::integer[]))

-- name: writes_to
SELECT thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind, data
FROM {schema}.agent_checkpoint_writes
WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s
      AND checkpoint_id = ANY(%(checkpoint_ids)s::text[]) AND name = ANY(%(names)s::text[])
ORDER BY task_path, task_id, task_index

-- name: latest_id
SELECT checkpoint_id FROM {schema}.agent_checkpoints
WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s
ORDER BY checkpoint_id DESC
LIMIT 1

-- name: lineage
WITH RECURSIVE chain (checkpoint_id, parent_id, value_names, value_versions, depth) AS (
    SELECT checkpoint_id, parent_id, value_names, value_versions, 1
    FROM {schema}.agent_checkpoints
    WHERE thread_id = %(thread_id)s AND namespace = %(namespace)s AND checkpoint_id = %(checkpoint_id)s
    UNION ALL
    SELECT parent.checkpoint_id, parent.parent_id, parent.value_names, parent.value_versions, chain.depth + 1
    FROM chain
    JOIN {schema}.agent_checkpoints parent
         ON parent.thread_id = %(thread_id)s AND parent.namespace = %(namespace)s
            AND parent.checkpoint_id = chain.parent_id
    WHERE chain.depth < %(limit)s
)
SELECT checkpoint_id, parent_id, value_names, value_versions FROM chain ORDER BY depth

-- name: copy_checkpoints
INSERT INTO {schema}.agent_checkpoints (thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata,
                               value_names, value_versions, inherited, created_at)
SELECT %(target_id)s::text, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names,
       value_versions, inherited, now()
FROM {schema}.agent_checkpoints
WHERE thread_id = %(source_id)s
{or_ignore}

-- name: copy_values
INSERT INTO {schema}.agent_checkpoint_values (thread_id, namespace, name, version, kind, data)
SELECT %(target_id)s::text, namespace, name, version, kind, data
FROM {schema}.agent_checkpoint_values
WHERE thread_id = %(source_id)s
{or_ignore}

-- name: copy_writes
INSERT INTO {schema}.agent_checkpoint_writes (thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind,
                                     data, created_at)
SELECT %(target_id)s::text, namespace, checkpoint_id, task_id, task_index, task_path, name, kind, data, now()
FROM {schema}.agent_checkpoint_writes
WHERE thread_id = %(source_id)s
{or_ignore}

-- name: delete_thread_checkpoints
DELETE FROM {schema}.agent_checkpoints WHERE thread_id = %(thread_id)s

-- name: delete_thread_values
DELETE FROM {schema}.agent_checkpoint_values WHERE thread_id = %(thread_id)s

-- name: delete_thread_writes
DELETE FROM {schema}.agent_checkpoint_writes WHERE thread_id = %(thread_id)s

-- name: threads_of_runs
SELECT DISTINCT thread_id FROM {schema}.agent_checkpoints WHERE run_id = ANY(%(run_ids)s::text[]) ORDER BY thread_id

-- name: threads_too_old
SELECT DISTINCT thread_id FROM {schema}.agent_checkpoints
WHERE created_at < now() - %(seconds)s::float8 * interval '1 second'

-- name: threads_too_long
SELECT DISTINCT thread_id FROM {schema}.agent_checkpoints GROUP BY thread_id, namespace HAVING count(*) > %(keep_last)s

-- name: nodes
SELECT namespace, checkpoint_id, parent_id, run_id, value_names, value_versions, inherited,
       coalesce(created_at < now() - %(seconds)s::float8 * interval '1 second', false) AS too_old
FROM {schema}.agent_checkpoints
WHERE thread_id = %(thread_id)s
ORDER BY namespace, checkpoint_id DESC

-- name: delete_checkpoints
DELETE FROM {schema}.agent_checkpoints
WHERE thread_id = %(thread_id)s AND (namespace, checkpoint_id) IN (
    SELECT unnest(%(namespace)s::text[]), unnest(%(checkpoint_id)s::text[]))

-- name: delete_writes
DELETE FROM {schema}.agent_checkpoint_writes
WHERE thread_id = %(thread_id)s AND (namespace, checkpoint_id) IN (
    SELECT unnest(%(namespace)s::text[]), unnest(%(checkpoint_id)s::text[]))

-- name: delete_values
DELETE FROM {schema}.agent_checkpoint_values
WHERE thread_id = %(thread_id)s AND (namespace, name, version) IN (
    SELECT unnest(%(namespace)s::text[]), unnest(%(name)s::text[]), unnest(%(version)s::text[]))

-- name: delete_stray_writes
DELETE FROM {schema}.agent_checkpoint_writes
WHERE created_at < now() - %(seconds)s::float8 * interval '1 second'
      AND NOT EXISTS (
          SELECT 1 FROM {schema}.agent_checkpoints held
          WHERE held.thread_id = agent_checkpoint_writes.thread_id
                AND held.namespace = agent_checkpoint_writes.namespace
                AND held.checkpoint_id = agent_checkpoint_writes.checkpoint_id)

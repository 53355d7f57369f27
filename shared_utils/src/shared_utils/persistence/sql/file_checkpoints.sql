-- Checkpoints in SQLite. Lists are JSON arrays, times ISO 8601 in UTC; `contains` is a function of ours.

-- name: tables
CREATE TABLE IF NOT EXISTS agent_checkpoints (
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    parent_id TEXT,
    run_id TEXT,
    kind TEXT NOT NULL,
    state BLOB NOT NULL,
    metadata TEXT NOT NULL,
    value_names TEXT NOT NULL,
    value_versions TEXT NOT NULL,
    inherited TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (thread_id, namespace, checkpoint_id)
);
CREATE INDEX IF NOT EXISTS agent_checkpoints_run ON agent_checkpoints (run_id);
CREATE INDEX IF NOT EXISTS agent_checkpoints_created_at ON agent_checkpoints (created_at);
CREATE TABLE IF NOT EXISTS agent_checkpoint_values (
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    kind TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (thread_id, namespace, name, version)
);
CREATE TABLE IF NOT EXISTS agent_checkpoint_writes (
    thread_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    task_index INTEGER NOT NULL,
    task_path TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    data BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (thread_id, namespace, checkpoint_id, task_id, task_index)
);
CREATE INDEX IF NOT EXISTS agent_checkpoint_writes_created_at ON agent_checkpoint_writes (created_at);

-- name: one
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM agent_checkpoints
WHERE thread_id = :thread_id AND namespace = :namespace AND checkpoint_id = :checkpoint_id

-- name: latest
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM agent_checkpoints
WHERE thread_id = :thread_id AND namespace = :namespace
ORDER BY checkpoint_id DESC
LIMIT 1

-- name: page_of_namespace
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM agent_checkpoints
WHERE thread_id = :thread_id AND namespace = :namespace AND contains(metadata, :metadata)
      AND (:checkpoint_id IS NULL OR checkpoint_id = :checkpoint_id)
      AND (:before IS NULL OR checkpoint_id < :before)
      AND (:after_id IS NULL OR checkpoint_id < :after_id)
ORDER BY checkpoint_id DESC
LIMIT :limit

-- name: page_of_thread
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM agent_checkpoints
WHERE thread_id = :thread_id AND contains(metadata, :metadata)
      AND (:checkpoint_id IS NULL OR checkpoint_id = :checkpoint_id)
      AND (:before IS NULL OR checkpoint_id < :before)
      AND (:after_id IS NULL
           OR (checkpoint_id, namespace) < (:after_id, :after_namespace))
ORDER BY checkpoint_id DESC, namespace DESC
LIMIT :limit

-- name: page_of_all
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM agent_checkpoints
WHERE contains(metadata, :metadata)
      AND (:namespace IS NULL OR namespace = :namespace)
      AND (:checkpoint_id IS NULL OR checkpoint_id = :checkpoint_id)
      AND (:before IS NULL OR checkpoint_id < :before)
      AND (:after_id IS NULL
           OR (checkpoint_id, namespace, thread_id)
              < (:after_id, :after_namespace, :after_thread))
ORDER BY checkpoint_id DESC, namespace DESC, thread_id DESC
LIMIT :limit

-- name: values_of
SELECT thread_id, namespace, name, version, kind, data
FROM agent_checkpoint_values
WHERE (thread_id, namespace, name, version) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]')
    FROM json_each(:each))

-- name: writes_of
SELECT thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind, data
FROM agent_checkpoint_writes
WHERE (thread_id, namespace, checkpoint_id) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
    FROM json_each(:each))
ORDER BY task_path, task_id, task_index

-- name: values_missing
SELECT name
FROM (SELECT json_extract(value, '$[0]') AS name, json_extract(value, '$[1]') AS version FROM json_each(:each)) wanted
WHERE NOT EXISTS (
    SELECT 1 FROM agent_checkpoint_values held
    WHERE held.thread_id = :thread_id AND held.namespace = :namespace AND held.name = wanted.name
          AND held.version = wanted.version)

-- name: insert_values
INSERT INTO agent_checkpoint_values (thread_id, namespace, name, version, kind, data)
VALUES (:thread_id, :namespace, :name, :version,
       :kind, :data)
ON CONFLICT DO NOTHING

-- name: insert_checkpoint
INSERT INTO agent_checkpoints (thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata,
                               value_names, value_versions, inherited, created_at)
VALUES (:thread_id, :namespace, :checkpoint_id, :parent_id, :run_id, :kind, :state,
        :metadata, :value_names, :value_versions, :inherited, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
ON CONFLICT DO NOTHING

-- name: update_checkpoint
UPDATE agent_checkpoints
SET parent_id = :parent_id, run_id = :run_id, kind = :kind, state = :state,
    metadata = :metadata, value_names = :value_names,
    value_versions = :value_versions, inherited = :inherited
WHERE thread_id = :thread_id AND namespace = :namespace AND checkpoint_id = :checkpoint_id

-- name: insert_writes
INSERT INTO agent_checkpoint_writes (thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind,
                                     data, created_at)
VALUES (:thread_id, :namespace, :checkpoint_id, :task_id,
       :task_index, :task_path, :name,
       :kind, :data, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
ON CONFLICT DO NOTHING

-- name: delete_replaced_writes
DELETE FROM agent_checkpoint_writes
WHERE thread_id = :thread_id AND namespace = :namespace AND checkpoint_id = :checkpoint_id
      AND task_id = :task_id AND task_index = :task_index

-- name: writes_to
SELECT thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind, data
FROM agent_checkpoint_writes
WHERE thread_id = :thread_id AND namespace = :namespace
      AND checkpoint_id IN (SELECT value FROM json_each(:checkpoint_ids)) AND name IN (SELECT value FROM json_each(:names))
ORDER BY task_path, task_id, task_index

-- name: latest_id
SELECT checkpoint_id FROM agent_checkpoints
WHERE thread_id = :thread_id AND namespace = :namespace
ORDER BY checkpoint_id DESC
LIMIT 1

-- name: lineage
WITH RECURSIVE chain (checkpoint_id, parent_id, value_names, value_versions, depth) AS (
    SELECT checkpoint_id, parent_id, value_names, value_versions, 1
    FROM agent_checkpoints
    WHERE thread_id = :thread_id AND namespace = :namespace AND checkpoint_id = :checkpoint_id
    UNION ALL
    SELECT parent.checkpoint_id, parent.parent_id, parent.value_names, parent.value_versions, chain.depth + 1
    FROM chain
    JOIN agent_checkpoints parent
         ON parent.thread_id = :thread_id AND parent.namespace = :namespace
            AND parent.checkpoint_id = chain.parent_id
    WHERE chain.depth < :limit
)
SELECT checkpoint_id, parent_id, value_names, value_versions FROM chain ORDER BY depth

-- name: copy_checkpoints
INSERT INTO agent_checkpoints (thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata,
                               value_names, value_versions, inherited, created_at)
SELECT :target_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names,
       value_versions, inherited, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
FROM agent_checkpoints
WHERE thread_id = :source_id
ON CONFLICT DO NOTHING

-- name: copy_values
INSERT INTO agent_checkpoint_values (thread_id, namespace, name, version, kind, data)
SELECT :target_id, namespace, name, version, kind, data
FROM agent_checkpoint_values
WHERE thread_id = :source_id
ON CONFLICT DO NOTHING

-- name: copy_writes
INSERT INTO agent_checkpoint_writes (thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind,
                                     data, created_at)
SELECT :target_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind, data, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
FROM agent_checkpoint_writes
WHERE thread_id = :source_id
ON CONFLICT DO NOTHING

-- name: delete_thread_checkpoints
DELETE FROM agent_checkpoints WHERE thread_id = :thread_id

-- name: delete_thread_values
DELETE FROM agent_checkpoint_values WHERE thread_id = :thread_id

-- name: delete_thread_writes
DELETE FROM agent_checkpoint_writes WHERE thread_id = :thread_id

-- name: threads_of_runs
SELECT DISTINCT thread_id FROM agent_checkpoints WHERE run_id IN (SELECT value FROM json_each(:run_ids)) ORDER BY thread_id

-- name: threads_too_old
SELECT DISTINCT thread_id FROM agent_checkpoints
WHERE created_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('%+f seconds', -:seconds))

-- name: threads_too_long
SELECT DISTINCT thread_id FROM agent_checkpoints GROUP BY thread_id, namespace HAVING count(*) > :keep_last

-- name: nodes
SELECT namespace, checkpoint_id, parent_id, run_id, value_names, value_versions, inherited,
       (:seconds IS NOT NULL
        AND created_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('%+f seconds', -:seconds))) AS too_old
FROM agent_checkpoints
WHERE thread_id = :thread_id
ORDER BY namespace, checkpoint_id DESC

-- name: delete_checkpoints
DELETE FROM agent_checkpoints
WHERE thread_id = :thread_id AND namespace = :namespace AND checkpoint_id = :checkpoint_id

-- name: delete_writes
DELETE FROM agent_checkpoint_writes
WHERE thread_id = :thread_id AND namespace = :namespace AND checkpoint_id = :checkpoint_id

-- name: delete_values
DELETE FROM agent_checkpoint_values
WHERE thread_id = :thread_id AND namespace = :namespace AND name = :name AND version = :version

-- name: delete_stray_writes
DELETE FROM agent_checkpoint_writes
WHERE created_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('%+f seconds', -:seconds))
      AND NOT EXISTS (
          SELECT 1 FROM agent_checkpoints held
          WHERE held.thread_id = agent_checkpoint_writes.thread_id
                AND held.namespace = agent_checkpoint_writes.namespace
                AND held.checkpoint_id = agent_checkpoint_writes.checkpoint_id)

-- name: threads
SELECT thread_id FROM agent_checkpoints UNION SELECT thread_id FROM agent_checkpoint_writes

-- name: all_of_thread
SELECT thread_id, namespace, checkpoint_id, parent_id, run_id, kind, state, metadata, value_names, value_versions,
       inherited, created_at
FROM agent_checkpoints
WHERE thread_id = :thread_id
ORDER BY checkpoint_id, namespace

-- name: all_writes_of_thread
SELECT thread_id, namespace, checkpoint_id, task_id, task_index, task_path, name, kind, data
FROM agent_checkpoint_writes
WHERE thread_id = :thread_id
ORDER BY task_path, task_id, task_index

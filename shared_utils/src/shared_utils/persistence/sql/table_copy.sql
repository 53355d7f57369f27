-- Statements of backup and restore, beside COPY.

-- name: columns
SELECT c.relname, a.attname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum;

-- name: references
SELECT c.relname, r.relname
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class r ON r.oid = k.confrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND k.contype = 'f' AND c.oid <> r.oid;

-- name: sequences
SELECT c.relname, a.attname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
    JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE n.nspname = %(schema)s AND pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%%';

-- name: advance
SELECT setval(pg_get_serial_sequence(%(table_name)s, %(column_name)s), greatest(max({column}), 1)) FROM {schema}.{table};

-- name: one_row
SELECT 1 FROM {schema}.{table} LIMIT 1;

-- name: vector_models
SELECT collection, table_number, model, dimensions, kind, metric, state FROM {schema}.vector_models
ORDER BY collection, table_number;

-- name: set_vector_kind
UPDATE {schema}.vector_models SET kind = %(kind)s WHERE collection = %(collection)s AND table_number = %(table_number)s;

-- name: restored_before
SELECT restored_at FROM {schema}.restores WHERE backup_id = %(backup_id)s;

-- name: note_restore
INSERT INTO {schema}.restores (backup_id, made_at, restored_at) VALUES (%(backup_id)s, %(made_at)s, now());

-- name: move_sessions
UPDATE {schema}.agent_sessions
SET agent_id = moved.new_id, version = version + 1, changed_at = now()
FROM (SELECT unnest(%(former_ids)s::text[]) AS former_id, unnest(%(new_ids)s::text[]) AS new_id) AS moved
WHERE agent_id = moved.former_id;

-- name: move_vectors
UPDATE {schema}.{table}
SET agent_id = moved.new_id
FROM (SELECT unnest(%(former_ids)s::text[]) AS former_id, unnest(%(new_ids)s::text[]) AS new_id) AS moved
WHERE agent_id = moved.former_id;

-- name: choices
SELECT user_key, permanent_memory, chosen_ms FROM {schema}.user_choices;

-- name: empty
DELETE FROM {schema}.{table};

-- name: update_choices
-- The later choice wins; an opt-out wins a tie.
UPDATE {schema}.user_choices AS kept
SET permanent_memory = given.permanent_memory, chosen_ms = given.chosen_ms
FROM (SELECT unnest(%(user_key)s::text[]) AS user_key, unnest(%(permanent_memory)s::boolean[]) AS permanent_memory,
             unnest(%(chosen_ms)s::bigint[]) AS chosen_ms) AS given
WHERE kept.user_key = given.user_key
  AND (kept.chosen_ms < given.chosen_ms
       OR (kept.chosen_ms = given.chosen_ms AND kept.permanent_memory AND NOT given.permanent_memory));

-- name: insert_choices
-- The table is locked: nobody else inserts meanwhile.
INSERT INTO {schema}.user_choices (user_key, permanent_memory, chosen_ms, changed_at)
SELECT given.user_key, given.permanent_memory, given.chosen_ms, clock_timestamp()
FROM (SELECT unnest(%(user_key)s::text[]) AS user_key, unnest(%(permanent_memory)s::boolean[]) AS permanent_memory,
             unnest(%(chosen_ms)s::bigint[]) AS chosen_ms) AS given
WHERE NOT EXISTS (SELECT 1 FROM {schema}.user_choices AS kept WHERE kept.user_key = given.user_key);

-- name: touch_choices
-- Running bridges poll for rows that changed.
UPDATE {schema}.user_choices SET changed_at = clock_timestamp();

-- name: audit
SELECT erasure_id, user_hash, started_at, finished_at, counts FROM {schema}.erasures;

-- name: remove_older_audit
-- The other state of the same erasure stays where only that one is finished.
DELETE FROM {schema}.erasures AS kept
USING (SELECT unnest(%(erasure_id)s::text[]) AS erasure_id,
              unnest(%(finished_at)s::timestamptz[]) AS finished_at) AS given
WHERE kept.erasure_id = given.erasure_id AND (kept.finished_at IS NULL OR given.finished_at IS NOT NULL);

-- name: insert_audit
INSERT INTO {schema}.erasures (erasure_id, user_hash, started_at, finished_at, counts)
SELECT given.erasure_id, given.user_hash, given.started_at, given.finished_at, given.counts
FROM (SELECT unnest(%(erasure_id)s::text[]) AS erasure_id, unnest(%(user_hash)s::text[]) AS user_hash,
             unnest(%(started_at)s::timestamptz[]) AS started_at,
             unnest(%(finished_at)s::timestamptz[]) AS finished_at,
             unnest(%(counts)s::jsonb[]) AS counts) AS given
WHERE NOT EXISTS (SELECT 1 FROM {schema}.erasures AS kept WHERE kept.erasure_id = given.erasure_id);

-- name: users
SELECT user_id FROM {schema}.agent_sessions
UNION SELECT user_id FROM {schema}.agent_conversations WHERE user_id IS NOT NULL
UNION SELECT metadata ->> 'user_id' FROM {schema}.agent_checkpoints WHERE (metadata ->> 'user_id') IS NOT NULL;

-- name: sources
SELECT DISTINCT source_id FROM {schema}.{table} WHERE source_id IS NOT NULL;

-- name: legacy_opt_outs
-- Opt-outs in the form of earlier releases: any value but true; an active session that says true wins over ended ones.
SELECT DISTINCT user_id FROM {schema}.agent_sessions AS out
WHERE user_id = ANY(%(users)s::text[]) AND NOT ((metadata -> 'permanent_memory') = 'true'::jsonb)
  AND (is_active OR NOT EXISTS (
      SELECT 1 FROM {schema}.agent_sessions AS opted_in
      WHERE opted_in.user_id = out.user_id AND opted_in.is_active
        AND (opted_in.metadata -> 'permanent_memory') = 'true'::jsonb));

-- name: threads_of_users
SELECT DISTINCT thread_id FROM {schema}.agent_checkpoints AS own
WHERE (metadata ->> 'user_id') = ANY(%(users)s::text[])
  AND NOT EXISTS (
      SELECT 1 FROM {schema}.agent_checkpoints AS other
      WHERE other.thread_id = own.thread_id AND (other.metadata ->> 'user_id') <> (own.metadata ->> 'user_id'));

-- name: remove_agent_sessions
DELETE FROM {schema}.agent_sessions WHERE user_id = ANY(%(users)s::text[]);

-- name: remove_agent_messages
DELETE FROM {schema}.agent_messages WHERE conversation_id IN (
    SELECT id FROM {schema}.agent_conversations WHERE user_id = ANY(%(users)s::text[]));

-- name: remove_agent_conversations
DELETE FROM {schema}.agent_conversations WHERE user_id = ANY(%(users)s::text[]);

-- name: remove_agent_checkpoint_writes
DELETE FROM {schema}.agent_checkpoint_writes WHERE thread_id = ANY(%(threads)s::text[]);

-- name: remove_agent_checkpoint_values
DELETE FROM {schema}.agent_checkpoint_values WHERE thread_id = ANY(%(threads)s::text[]);

-- name: remove_agent_checkpoints
DELETE FROM {schema}.agent_checkpoints WHERE thread_id = ANY(%(threads)s::text[]);

-- name: remove_vectors
DELETE FROM {schema}.{table} WHERE source_id = ANY(%(sources)s::text[]);

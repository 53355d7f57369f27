-- The audit of erasures.

-- name: unfinished
SELECT erasure_id, counts FROM {schema}.erasures WHERE user_hash = %(user_hash)s AND finished_at IS NULL ORDER BY started_at LIMIT 1;

-- name: begin
INSERT INTO {schema}.erasures (erasure_id, user_hash, started_at, counts)
VALUES (%(erasure_id)s, %(user_hash)s, now(), '{}'::jsonb);

-- name: note
UPDATE {schema}.erasures SET counts = %(counts)s WHERE erasure_id = %(erasure_id)s;

-- name: finish
UPDATE {schema}.erasures SET finished_at = now(), counts = %(counts)s WHERE erasure_id = %(erasure_id)s;

-- name: history
SELECT erasure_id, user_hash, started_at, finished_at, counts FROM {schema}.erasures
WHERE user_hash = %(user_hash)s ORDER BY started_at;

-- name: lately
SELECT user_hash, max(started_at) AS started_at FROM {schema}.erasures
WHERE started_at > now() - %(seconds)s::float8 * interval '1 second' GROUP BY user_hash;

-- name: since
SELECT DISTINCT user_hash FROM {schema}.erasures
WHERE started_at >= %(moment)s OR finished_at >= %(moment)s
   OR (finished_at IS NULL AND started_at >= %(under_way)s);

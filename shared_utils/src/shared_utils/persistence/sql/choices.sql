-- Choices about permanent memory, as in migrations/0007_user_choices.sql.

-- name: find
SELECT user_key, permanent_memory, chosen_ms FROM user_choices WHERE user_key = ANY(%(user_keys)s::text[]);

-- name: insert_new
INSERT INTO user_choices (user_key, permanent_memory, chosen_ms, changed_at)
SELECT unnest(%(user_key)s::text[]), unnest(%(permanent_memory)s::boolean[]), unnest(%(chosen_ms)s::bigint[]),
       clock_timestamp()
{or_ignore};

-- name: update_newer
-- The later choice wins; an opt-out wins a tie.
UPDATE user_choices
SET permanent_memory = given.permanent_memory, chosen_ms = given.chosen_ms, changed_at = clock_timestamp()
FROM (SELECT unnest(%(user_key)s::text[]) AS user_key, unnest(%(permanent_memory)s::boolean[]) AS permanent_memory,
             unnest(%(chosen_ms)s::bigint[]) AS chosen_ms) AS given
WHERE user_choices.user_key = given.user_key
  AND (user_choices.chosen_ms < given.chosen_ms
       OR (user_choices.chosen_ms = given.chosen_ms AND user_choices.permanent_memory AND NOT given.permanent_memory));

-- name: page
SELECT user_key, permanent_memory, chosen_ms FROM user_choices
WHERE user_key > %(after)s ORDER BY user_key LIMIT %(limit)s;

-- name: changed
SELECT user_key, permanent_memory, chosen_ms FROM user_choices WHERE changed_at > %(since)s;

-- name: now
-- Two seconds back: a transaction with an earlier timestamp may not be committed yet.
SELECT clock_timestamp() - interval '2 seconds' AS now;

-- Choices about permanent memory in the session file (SQLite); the table is in ../sessions.sql.

-- name: find
SELECT user_key, permanent_memory, chosen_ms FROM user_choices WHERE user_key = :user_key;

-- name: merge
INSERT INTO user_choices (user_key, permanent_memory, chosen_ms, changed_at)
VALUES (:user_key, :permanent_memory, :chosen_ms, :changed_at)
ON CONFLICT (user_key) DO UPDATE
SET permanent_memory = excluded.permanent_memory, chosen_ms = excluded.chosen_ms, changed_at = excluded.changed_at
WHERE user_choices.chosen_ms < excluded.chosen_ms
   OR (user_choices.chosen_ms = excluded.chosen_ms AND user_choices.permanent_memory > excluded.permanent_memory);

-- name: all
SELECT user_key, permanent_memory, chosen_ms FROM user_choices;

-- name: page
SELECT user_key, permanent_memory, chosen_ms FROM user_choices
WHERE user_key > :after ORDER BY user_key LIMIT :limit;

-- name: changed
SELECT user_key, permanent_memory, chosen_ms FROM user_choices WHERE changed_at > :since;

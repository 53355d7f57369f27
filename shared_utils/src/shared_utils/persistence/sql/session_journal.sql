-- The journal in the session file (SQLite); the tables are in ../sessions.sql.

-- name: add
INSERT INTO session_journal (session_id, base_version, session) VALUES (:session_id, :base_version, :session);

-- name: oldest
SELECT number, session_id, base_version, session FROM session_journal ORDER BY number LIMIT :limit;

-- name: done
DELETE FROM session_journal WHERE number = :number;

-- name: doubt
UPDATE session_journal SET base_version = -1 WHERE session_id = :session_id AND base_version IS NOT NULL;

-- name: drop
DELETE FROM agent_sessions WHERE session_id = :session_id;

-- name: conflict
INSERT INTO session_conflicts (happened, session_id, reason, lost, won)
VALUES (:happened, :session_id, :reason, :lost, :won);

-- name: conflicts
SELECT happened, session_id, reason, lost, won FROM session_conflicts ORDER BY number DESC LIMIT :limit;

-- name: use
INSERT INTO session_journal_uses (session_id, messages) VALUES (:session_id, :messages)
ON CONFLICT (session_id) DO UPDATE SET messages = messages + excluded.messages;

-- name: uses
SELECT session_id, messages FROM session_journal_uses;

-- name: forget_use
DELETE FROM session_journal_uses WHERE session_id = :session_id AND messages = :messages;

-- name: counts
SELECT (SELECT count(*) FROM session_journal) AS waiting, (SELECT count(*) FROM session_conflicts) AS conflicts;

-- name: erase_entries
DELETE FROM session_journal WHERE json_extract(session, '$.user_id') = :user_id;

-- name: erase_conflicts
DELETE FROM session_conflicts
WHERE json_extract(lost, '$.user_id') = :user_id OR json_extract(won, '$.user_id') = :user_id;

-- Erasures in the session file (SQLite). The tables of sessions are in ../sessions.sql; this one is made on first use,
-- so that a release before does not mind it.

-- name: make
CREATE TABLE IF NOT EXISTS erasures_followed (user_hash TEXT PRIMARY KEY, at_ms INTEGER NOT NULL);

-- name: followed
SELECT user_hash, at_ms FROM erasures_followed;

-- name: follow
INSERT OR REPLACE INTO erasures_followed (user_hash, at_ms) VALUES (?, ?);

-- name: bound
DELETE FROM erasures_followed
WHERE user_hash NOT IN (SELECT user_hash FROM erasures_followed ORDER BY at_ms DESC LIMIT ?);

-- name: users
SELECT user_id FROM agent_sessions
UNION SELECT json_extract(session, '$.user_id') FROM session_journal WHERE session IS NOT NULL
UNION SELECT json_extract(lost, '$.user_id') FROM session_conflicts WHERE lost IS NOT NULL
UNION SELECT json_extract(won, '$.user_id') FROM session_conflicts WHERE won IS NOT NULL;

-- name: count_sessions
SELECT count(*) FROM agent_sessions WHERE user_id = :user_id;

-- name: count_writes
SELECT count(*) FROM session_journal WHERE json_extract(session, '$.user_id') = :user_id;

-- name: count_conflicts
SELECT count(*) FROM session_conflicts
WHERE json_extract(lost, '$.user_id') = :user_id OR json_extract(won, '$.user_id') = :user_id;

-- name: erase_uses
DELETE FROM session_journal_uses WHERE session_id IN (SELECT session_id FROM agent_sessions WHERE user_id = :user_id);

-- name: erase_writes
DELETE FROM session_journal WHERE json_extract(session, '$.user_id') = :user_id;

-- name: erase_conflicts
DELETE FROM session_conflicts
WHERE json_extract(lost, '$.user_id') = :user_id OR json_extract(won, '$.user_id') = :user_id;

-- name: erase_sessions
DELETE FROM agent_sessions WHERE user_id = :user_id;

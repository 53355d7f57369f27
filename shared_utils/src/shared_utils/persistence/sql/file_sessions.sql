-- The session file (SQLite); the tables are in ../sessions.sql.

-- name: find
SELECT * FROM agent_sessions WHERE user_id = :user_id AND persona = :persona AND is_active = 1;

-- name: load
SELECT * FROM agent_sessions WHERE session_id = :session_id;

-- name: write
INSERT INTO agent_sessions (session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated,
                            expires_at, version, is_active, message_count, changed_at)
VALUES (:session_id, :user_id, :persona, :agent_id, :session_data, :metadata, :created_at, :last_updated, :expires_at,
        :version, :is_active, :message_count, :changed_at)
ON CONFLICT (session_id) DO UPDATE
SET agent_id = excluded.agent_id, session_data = excluded.session_data, metadata = excluded.metadata,
    last_updated = excluded.last_updated, expires_at = excluded.expires_at, version = excluded.version,
    is_active = excluded.is_active, message_count = excluded.message_count, changed_at = excluded.changed_at,
    claimed_by = CASE WHEN excluded.agent_id IS NULL THEN claimed_by END;

-- name: remove
DELETE FROM agent_sessions WHERE session_id = :session_id;

-- name: forget_other
DELETE FROM agent_sessions
WHERE user_id = :user_id AND persona = :persona AND is_active = 1 AND session_id <> :session_id;

-- name: claim
UPDATE agent_sessions SET claimed_by = :owner, claimed_until = :until
WHERE session_id = :session_id AND is_active = 1 AND agent_id IS NULL
  AND (claimed_by IS NULL OR claimed_by = :owner OR claimed_until < :now);

-- name: page
SELECT * FROM agent_sessions
WHERE (is_active = 1 OR :include_inactive) AND (:user_id IS NULL OR user_id = :user_id)
ORDER BY last_updated DESC, session_id LIMIT :limit OFFSET :offset;

-- name: total
SELECT count(*) FROM agent_sessions
WHERE (is_active = 1 OR :include_inactive) AND (:user_id IS NULL OR user_id = :user_id);

-- name: part
SELECT * FROM agent_sessions WHERE session_id > :after ORDER BY session_id LIMIT :limit;

-- name: touch
UPDATE agent_sessions
SET last_updated = :now, message_count = message_count + :messages, expires_at = coalesce(:expires_at, expires_at)
WHERE session_id = :session_id AND is_active = 1;

-- name: changed
SELECT user_id, persona FROM agent_sessions WHERE changed_at > :since;

-- name: expired
SELECT * FROM agent_sessions WHERE is_active = 1 AND expires_at <= :now;

-- name: opted_out_users
-- Opt-outs in the form of earlier releases: any value but true, and unreadable metadata.
SELECT DISTINCT opted_out.user_id FROM agent_sessions AS opted_out
WHERE CASE WHEN json_valid(opted_out.metadata)
           THEN coalesce(json_type(opted_out.metadata, '$.permanent_memory'), 'true') END IS NOT 'true'
  AND (opted_out.is_active = 1 OR NOT EXISTS (
      SELECT 1 FROM agent_sessions AS opted_in
      WHERE opted_in.user_id = opted_out.user_id AND opted_in.is_active = 1
        AND CASE WHEN json_valid(opted_in.metadata)
                 THEN json_type(opted_in.metadata, '$.permanent_memory') END = 'true'));

-- name: remove_ended
DELETE FROM agent_sessions WHERE is_active = 0 AND changed_at <= :before;

-- name: count
SELECT count(*) AS active, count(*) - count(agent_id) AS reserved FROM agent_sessions WHERE is_active = 1;

-- name: active_keys
SELECT user_id, persona FROM agent_sessions WHERE is_active = 1;

-- name: statistics
SELECT count(*) AS total, sum(is_active) AS active, sum(is_active AND agent_id IS NULL) AS reserved,
       sum(is_active AND expires_at IS NOT NULL AND expires_at <= :now) AS expired,
       avg(CASE WHEN is_active AND message_count > 0 THEN message_count END) AS average_messages,
       sum(is_active AND last_updated > :hour) AS hour, sum(is_active AND last_updated > :day) AS day,
       sum(is_active AND last_updated > :week) AS week, sum(is_active AND last_updated > :month) AS month
FROM agent_sessions;

-- name: created
SELECT substr(created_at, 1, 10) AS day, count(*) AS made FROM agent_sessions
WHERE created_at > :month GROUP BY day ORDER BY day;

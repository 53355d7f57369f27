-- Sessions, as in migrations/0001_sessions.sql. Times that decide something are the server's.

-- name: find
SELECT session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version,
       is_active, message_count
FROM agent_sessions
WHERE user_id = %(user_id)s AND persona = %(persona)s AND is_active;

-- name: load
SELECT session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version,
       is_active, message_count
FROM agent_sessions
WHERE session_id = %(session_id)s;

-- name: reserve
INSERT INTO agent_sessions (session_id, user_id, persona, session_data, metadata, created_at, last_updated, changed_at,
                            version, is_active)
VALUES (%(session_id)s, %(user_id)s, %(persona)s, '{}', '{}', clock_timestamp(), clock_timestamp(), clock_timestamp(),
        1, true)
{or_ignore};

-- name: claim
UPDATE agent_sessions
SET claimed_by = %(owner)s, claimed_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE session_id = %(session_id)s AND is_active AND agent_id IS NULL
  AND (claimed_by IS NULL OR claimed_by = %(owner)s OR claimed_until < clock_timestamp());

-- name: save
UPDATE agent_sessions
SET agent_id = %(agent_id)s, session_data = %(session_data)s::jsonb, metadata = %(metadata)s::jsonb,
    expires_at = coalesce(clock_timestamp() + %(hours)s::float8 * interval '1 hour', %(expires_at)s::timestamptz),
    is_active = %(is_active)s, version = version + 1, last_updated = clock_timestamp(),
    changed_at = clock_timestamp(),
    claimed_by = CASE WHEN %(agent_id)s::text IS NULL THEN claimed_by END
WHERE session_id = %(session_id)s AND version = %(version)s
RETURNING session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version,
          is_active, message_count;

-- name: page
SELECT session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version,
       is_active, message_count
FROM agent_sessions
ORDER BY last_updated DESC, session_id
LIMIT %(limit)s OFFSET %(offset)s;

-- name: page_active
SELECT session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version,
       is_active, message_count
FROM agent_sessions
WHERE is_active
ORDER BY last_updated DESC, session_id
LIMIT %(limit)s OFFSET %(offset)s;

-- name: page_user
SELECT session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version,
       is_active, message_count
FROM agent_sessions
WHERE user_id = %(user_id)s AND (is_active OR %(include_inactive)s)
ORDER BY last_updated DESC, session_id
LIMIT %(limit)s OFFSET %(offset)s;

-- name: total
SELECT count(*) AS total FROM agent_sessions WHERE is_active IN (true, false);

-- name: total_active
SELECT count(*) AS total FROM agent_sessions WHERE is_active;

-- name: total_user
SELECT count(*) AS total FROM agent_sessions WHERE user_id = %(user_id)s AND (is_active OR %(include_inactive)s);

-- name: end
UPDATE agent_sessions
SET is_active = false, version = version + 1, changed_at = clock_timestamp()
WHERE session_id = %(session_id)s AND is_active;

-- name: remove
DELETE FROM agent_sessions WHERE session_id = %(session_id)s;

-- name: revive
-- An expiry that has passed is taken away: the next cleanup would end it again.
UPDATE agent_sessions
SET is_active = true, version = version + 1, changed_at = clock_timestamp(),
    expires_at = CASE WHEN expires_at > clock_timestamp() THEN expires_at END
WHERE session_id = %(session_id)s AND NOT is_active;

-- name: touch
UPDATE agent_sessions
SET last_updated = clock_timestamp(), message_count = message_count + used.messages,
    expires_at = coalesce(clock_timestamp() + %(hours)s::float8 * interval '1 hour', expires_at)
FROM (SELECT unnest(%(ids)s::text[]) AS session_id, unnest(%(messages)s::bigint[]) AS messages) AS used
WHERE agent_sessions.session_id = used.session_id AND is_active
RETURNING agent_sessions.session_id;

-- name: changed
SELECT user_id, persona FROM agent_sessions WHERE changed_at > %(since)s;

-- name: now
-- Somewhat in the past: a write with an earlier time may still be on its way to being visible.
SELECT clock_timestamp() - interval '2 seconds' AS now;

-- name: opted_out
-- Opt-outs in the form of earlier releases: any value but true.
SELECT user_id, session_id, is_active FROM agent_sessions
WHERE NOT ((metadata -> 'permanent_memory') = 'true'::jsonb)
  AND (user_id, session_id) > (%(after_user)s::text, %(after_session)s::text)
ORDER BY user_id, session_id
LIMIT %(limit)s;

-- name: opted_in
SELECT user_id FROM agent_sessions
WHERE user_id = ANY(%(users)s::text[]) AND is_active AND (metadata -> 'permanent_memory') = 'true'::jsonb;

-- name: expired_ids
-- SKIP LOCKED: another bridge cleans up as well.
SELECT session_id FROM agent_sessions
WHERE is_active AND expires_at IS NOT NULL AND expires_at <= now()
  AND coalesce((metadata -> 'permanent_memory') = 'true'::jsonb, true)
ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED;

-- name: end_these
UPDATE agent_sessions
SET is_active = false, version = version + 1, changed_at = clock_timestamp()
WHERE session_id = ANY(%(ids)s::text[]);

-- name: ended_ids
SELECT session_id FROM agent_sessions
WHERE NOT is_active AND changed_at <= now() - %(grace)s * interval '1 second'
ORDER BY changed_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED;

-- name: remove_these
DELETE FROM agent_sessions WHERE session_id = ANY(%(ids)s::text[]);

-- name: part
SELECT session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated, expires_at, version,
       is_active, message_count
FROM agent_sessions
WHERE session_id > %(after)s
ORDER BY session_id
LIMIT %(limit)s;

-- name: part_ids
SELECT session_id FROM agent_sessions WHERE session_id > %(after)s ORDER BY session_id LIMIT %(limit)s;

-- name: page_active_ids
SELECT session_id FROM agent_sessions
WHERE is_active
ORDER BY last_updated DESC, session_id
LIMIT %(limit)s OFFSET %(offset)s;

-- name: versions
SELECT session_id, version FROM agent_sessions WHERE session_id = ANY(%(ids)s::text[]);

-- name: holders
SELECT user_id, persona, session_id FROM agent_sessions WHERE is_active AND user_id = ANY(%(users)s::text[]);

-- name: put_new
INSERT INTO agent_sessions (session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated,
                            expires_at, version, is_active, message_count, changed_at)
SELECT unnest(%(session_id)s::text[]), unnest(%(user_id)s::text[]), unnest(%(persona)s::text[]),
       unnest(%(agent_id)s::text[]), unnest(%(session_data)s::text[])::jsonb, unnest(%(metadata)s::text[])::jsonb,
       unnest(%(created_at)s::timestamptz[]), unnest(%(last_updated)s::timestamptz[]),
       unnest(%(expires_at)s::timestamptz[]), unnest(%(version)s::bigint[]), unnest(%(is_active)s::boolean[]),
       unnest(%(message_count)s::bigint[]), clock_timestamp();

-- name: put_newer
UPDATE agent_sessions
SET agent_id = newer.agent_id, session_data = newer.session_data::jsonb, metadata = newer.metadata::jsonb,
    last_updated = newer.last_updated, expires_at = newer.expires_at, version = newer.version,
    is_active = newer.is_active, message_count = newer.message_count, changed_at = clock_timestamp()
FROM (SELECT unnest(%(session_id)s::text[]) AS session_id, unnest(%(agent_id)s::text[]) AS agent_id,
             unnest(%(session_data)s::text[]) AS session_data, unnest(%(metadata)s::text[]) AS metadata,
             unnest(%(last_updated)s::timestamptz[]) AS last_updated,
             unnest(%(expires_at)s::timestamptz[]) AS expires_at, unnest(%(version)s::bigint[]) AS version,
             unnest(%(is_active)s::boolean[]) AS is_active, unnest(%(message_count)s::bigint[]) AS message_count
     ) AS newer
WHERE agent_sessions.session_id = newer.session_id AND agent_sessions.version < newer.version
RETURNING agent_sessions.session_id;

-- name: expired
SELECT count(*) AS expired FROM agent_sessions WHERE is_active AND expires_at IS NOT NULL AND expires_at <= now();

-- name: reserved
SELECT count(*) AS reserved FROM agent_sessions WHERE is_active AND agent_id IS NULL;

-- name: average_messages
SELECT avg(message_count)::float8 AS average FROM agent_sessions WHERE is_active AND message_count > 0;

-- name: created
SELECT to_char(created_at, 'YYYY-MM-DD') AS day, count(*) AS made
FROM agent_sessions WHERE created_at > now() - interval '30 days'
GROUP BY to_char(created_at, 'YYYY-MM-DD')
ORDER BY day;

-- name: last_seen
SELECT coalesce(sum(CASE WHEN last_updated > now() - interval '1 hour' THEN 1 END), 0) AS hour,
       coalesce(sum(CASE WHEN last_updated > now() - interval '1 day' THEN 1 END), 0) AS day,
       count(*) AS week
FROM agent_sessions WHERE is_active AND last_updated > now() - interval '7 days';

-- name: not_seen
SELECT count(*) AS older FROM agent_sessions WHERE is_active AND last_updated <= now() - interval '30 days';

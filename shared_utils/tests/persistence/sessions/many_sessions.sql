-- Sessions by the number, as they would lie after two months: a tenth ended, some reserved, some that expire.
INSERT INTO agent_sessions (session_id, user_id, persona, agent_id, session_data, metadata, created_at, last_updated,
                            expires_at, version, is_active, message_count, changed_at)
SELECT 'session-' || lpad(n::text, 7, '0'), 'user-' || n, 'default',
       CASE WHEN mod(n, 1000) <> 0 THEN 'agent-' || md5(n::text) END, '{"note": "as much as a bridge keeps"}', '{}',
       now() - mod(n, 60) * interval '1 day' - mod(n, 86400) * interval '1 second',
       now() - mod(n, 60) * interval '12 hours' - mod(n, 3600) * interval '1 second',
       CASE WHEN mod(n, 10) = 1 THEN now() + (mod(n, 200) - 1) * interval '1 hour' END,
       2, mod(n, 10) <> 0, mod(n, 40), now() - mod(n, 60) * interval '1 day' - interval '1 minute'
FROM generate_series(1, %(sessions)s) AS n;

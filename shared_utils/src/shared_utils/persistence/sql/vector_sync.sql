-- What the bridge asks to keep the vectors in step: whose turn it is, and what the journal holds.

-- name: begin
INSERT INTO vector_sync (part, position) SELECT %(part)s, ''
WHERE NOT EXISTS (SELECT 1 FROM vector_sync WHERE part = %(part)s);

-- name: claim
UPDATE vector_sync SET owner = %(owner)s, leased_until = now() + %(seconds)s::float8 * interval '1 second'
WHERE part = %(part)s AND (owner IS NULL OR owner = %(owner)s OR leased_until < now())
RETURNING position;

-- name: save
UPDATE vector_sync SET position = %(position)s WHERE part = %(part)s AND owner = %(owner)s;

-- name: leave
UPDATE vector_sync SET owner = NULL, leased_until = NULL WHERE part = %(part)s AND owner = %(owner)s;

-- name: turns
SELECT a.id, a.created_at, CASE WHEN a.role = 'assistant' THEN a.content END AS answer, a.metadata,
    CASE WHEN a.role = 'assistant' THEN q.content ELSE a.content END AS question, c.id AS conversation_id, c.user_id,
    c.metadata AS conversation
FROM agent_messages a
JOIN agent_conversations c ON c.id = a.conversation_id
LEFT JOIN agent_messages q ON q.conversation_id = a.conversation_id AND q.ordinal = a.ordinal - 1 AND q.role = 'user'
    AND a.role = 'assistant'
WHERE a.created_at >= %(at)s AND (a.created_at > %(at)s OR a.id > %(id)s) AND c.source = %(source)s
    AND (q.id IS NOT NULL OR a.role = 'user' AND a.metadata @> '{"canned": true}'::jsonb)
ORDER BY a.created_at, a.id LIMIT %(most)s;

-- name: present
SELECT id FROM agent_messages WHERE id = ANY(%(ids)s::text[]);

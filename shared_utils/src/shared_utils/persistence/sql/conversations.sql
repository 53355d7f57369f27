-- What the conversation service asks beyond its repositories.

-- name: touch
-- Locks the conversation, so that its next ordinals are ours.
UPDATE {schema}.agent_conversations SET updated_at = now() WHERE id = %(id)s RETURNING updated_at;

-- name: last_ordinal
SELECT coalesce(max(ordinal), 0) AS ordinal FROM {schema}.agent_messages WHERE conversation_id = %(id)s;

-- name: rename
UPDATE {schema}.agent_conversations SET title = %(title)s, updated_at = now() WHERE id = %(id)s
RETURNING id, user_id, source, title, metadata, created_at, updated_at;

-- name: touch_all
UPDATE {schema}.agent_conversations SET updated_at = greatest(agent_conversations.updated_at, news.at)
FROM (SELECT unnest(%(ids)s::text[]) AS id, unnest(%(times)s::timestamptz[]) AS at) AS news
WHERE agent_conversations.id = news.id;

-- name: search
SELECT id, conversation_id, ordinal, role, content, metadata, created_at
FROM (SELECT * FROM {schema}.agent_messages ORDER BY created_at DESC, id DESC LIMIT %(depth)s) AS recent
WHERE content ILIKE %(pattern)s ORDER BY created_at DESC, id DESC LIMIT %(most)s;

-- name: search_user
SELECT id, conversation_id, ordinal, role, content, metadata, created_at
FROM (
    SELECT m.* FROM {schema}.agent_conversations c JOIN {schema}.agent_messages m ON m.conversation_id = c.id
    WHERE c.user_id = %(user_id)s ORDER BY m.created_at DESC, m.id DESC LIMIT %(depth)s
) AS recent
WHERE content ILIKE %(pattern)s ORDER BY created_at DESC, id DESC LIMIT %(most)s;

-- name: search_conversation
SELECT id, conversation_id, ordinal, role, content, metadata, created_at
FROM (
    SELECT * FROM {schema}.agent_messages WHERE conversation_id = %(conversation_id)s
    ORDER BY ordinal DESC, id DESC LIMIT %(depth)s
) AS recent
WHERE content ILIKE %(pattern)s ORDER BY ordinal DESC, id DESC LIMIT %(most)s;

-- name: purge_messages
DELETE FROM {schema}.agent_messages WHERE id IN (
    SELECT m.id FROM {schema}.agent_messages m JOIN {schema}.agent_conversations c ON c.id = m.conversation_id
    WHERE m.created_at < now() - %(seconds)s::float8 * interval '1 second' AND c.source = %(source)s
    ORDER BY m.created_at, m.id LIMIT %(most)s
);

-- name: purge_conversations
-- The age is asked again outside: a conversation that got a message meanwhile is not old any more.
DELETE FROM {schema}.agent_conversations WHERE updated_at < now() - %(seconds)s::float8 * interval '1 second' AND id IN (
    SELECT c.id FROM {schema}.agent_conversations c
    WHERE c.updated_at < now() - %(seconds)s::float8 * interval '1 second' AND c.source = %(source)s
        AND NOT EXISTS (SELECT 1 FROM {schema}.agent_messages m WHERE m.conversation_id = c.id)
    ORDER BY c.updated_at LIMIT %(most)s
);

-- name: lock
SELECT id FROM {schema}.agent_conversations WHERE id = %(id)s FOR UPDATE;

-- name: delete_messages
DELETE FROM {schema}.agent_messages WHERE id = ANY(%(ids)s);

-- name: delete_empty
DELETE FROM {schema}.agent_conversations
WHERE id = %(id)s AND NOT EXISTS (SELECT 1 FROM {schema}.agent_messages WHERE conversation_id = %(id)s);

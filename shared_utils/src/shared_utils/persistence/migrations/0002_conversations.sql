-- Conversations and their messages: the bridge's journal, and whatever an application keeps there.
CREATE TABLE agent_conversations (
    id text PRIMARY KEY,
    user_id text,           -- whose it is; NULL where it is nobody's in particular
    source text NOT NULL,   -- who writes it
    title text NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE INDEX agent_conversations_user ON agent_conversations (user_id, created_at, id);
CREATE INDEX agent_conversations_created_at ON agent_conversations (created_at, id);
CREATE INDEX agent_conversations_updated_at ON agent_conversations (updated_at);

CREATE TABLE agent_messages (
    id text PRIMARY KEY,
    conversation_id text NOT NULL REFERENCES agent_conversations (id) ON DELETE CASCADE,
    ordinal bigint NOT NULL,  -- orders the messages of a conversation
    role text NOT NULL,
    content text NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE INDEX agent_messages_conversation ON agent_messages (conversation_id, ordinal, id);
CREATE INDEX agent_messages_created_at ON agent_messages (created_at, id);

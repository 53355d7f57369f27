-- Sessions: which agent is a user's. At most one active session per (user, persona).
-- Ids compare byte by byte (COLLATE "C"), so that their order is the same in every database, and quick.
CREATE TABLE agent_sessions (
    session_id text COLLATE "C" PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    persona text COLLATE "C" NOT NULL,
    agent_id text,
    session_data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    last_updated timestamptz NOT NULL,
    expires_at timestamptz,
    version bigint NOT NULL,
    is_active boolean NOT NULL,
    message_count bigint NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL,  -- last write; use alone moves only last_updated
    claimed_by text,                  -- who makes the agent now, and until when
    claimed_until timestamptz
);

CREATE UNIQUE INDEX agent_sessions_one_active ON agent_sessions (user_id, persona) WHERE is_active;
-- Pages: of all, of the active ones, of one user.
CREATE INDEX agent_sessions_last_updated ON agent_sessions (last_updated DESC, session_id);
CREATE INDEX agent_sessions_in_use ON agent_sessions (last_updated DESC, session_id) WHERE is_active;
CREATE INDEX agent_sessions_user ON agent_sessions (user_id, last_updated DESC, session_id);
-- Statistics, without a look at the rows.
CREATE INDEX agent_sessions_created_at ON agent_sessions (created_at);
CREATE INDEX agent_sessions_is_active ON agent_sessions (is_active);
CREATE INDEX agent_sessions_reserved ON agent_sessions (session_id) WHERE is_active AND agent_id IS NULL;
CREATE INDEX agent_sessions_messages ON agent_sessions (message_count) WHERE is_active AND message_count > 0;
-- What was written lately, what expires, what ended long ago.
CREATE INDEX agent_sessions_changed_at ON agent_sessions (changed_at);
CREATE INDEX agent_sessions_expires_at ON agent_sessions (expires_at) WHERE is_active AND expires_at IS NOT NULL;
CREATE INDEX agent_sessions_ended ON agent_sessions (changed_at) WHERE NOT is_active;

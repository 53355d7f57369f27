-- Sessions: which agent is a user's. At most one active session per (user, persona).
CREATE TABLE agent_sessions (
    session_id text PRIMARY KEY,
    user_id text NOT NULL,
    persona text NOT NULL,
    agent_id text,
    session_data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    last_updated timestamptz NOT NULL,
    expires_at timestamptz,
    version bigint NOT NULL,
    is_active boolean NOT NULL,
    changed_at timestamptz NOT NULL,  -- last write; use alone moves only last_updated
    claimed_by text,                  -- who makes the agent now, and until when
    claimed_until timestamptz
);

CREATE UNIQUE INDEX agent_sessions_one_active ON agent_sessions (user_id, persona) WHERE is_active;
CREATE INDEX agent_sessions_user ON agent_sessions (user_id);
CREATE INDEX agent_sessions_last_updated ON agent_sessions (last_updated DESC, session_id);
CREATE INDEX agent_sessions_created_at ON agent_sessions (created_at);
CREATE INDEX agent_sessions_is_active ON agent_sessions (is_active);
CREATE INDEX agent_sessions_changed_at ON agent_sessions (changed_at);
CREATE INDEX agent_sessions_expires_at ON agent_sessions (expires_at);

-- Sessions in SQLite. Times are ISO 8601 in UTC, data and metadata are JSON objects.
CREATE TABLE IF NOT EXISTS agent_sessions (
    session_id   TEXT PRIMARY KEY,
    user_id      TEXT NOT NULL,
    persona      TEXT NOT NULL,
    agent_id     TEXT,
    session_data TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    last_updated TEXT NOT NULL,
    expires_at   TEXT,
    version      INTEGER NOT NULL,
    is_active    INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS agent_sessions_one_active
    ON agent_sessions (user_id, persona) WHERE is_active = 1;
CREATE INDEX IF NOT EXISTS agent_sessions_last_updated ON agent_sessions (last_updated);

-- Sessions in SQLite, step by step: each step is applied once and counted in PRAGMA user_version.
-- Times are ISO 8601 in UTC (claimed_until: seconds since 1970), data and metadata are JSON objects.

-- step: 1
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

-- step: 2
ALTER TABLE agent_sessions ADD COLUMN message_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agent_sessions ADD COLUMN changed_at TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_sessions ADD COLUMN claimed_by TEXT;
ALTER TABLE agent_sessions ADD COLUMN claimed_until REAL;
UPDATE agent_sessions SET changed_at = last_updated;
CREATE INDEX agent_sessions_user ON agent_sessions (user_id);
CREATE INDEX agent_sessions_changed_at ON agent_sessions (changed_at);
CREATE INDEX agent_sessions_expires_at ON agent_sessions (expires_at) WHERE is_active = 1;

-- step: 3
-- Writes the database has not got yet, in order. base_version is what the row had before: NULL where it is removed,
-- 0 where it is new, -1 where an earlier write of the same session was refused already.
CREATE TABLE session_journal (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id   TEXT NOT NULL,
    base_version INTEGER,
    session      TEXT
);
CREATE INDEX session_journal_session ON session_journal (session_id);
CREATE TABLE session_journal_uses (
    session_id TEXT PRIMARY KEY,
    messages   INTEGER NOT NULL
);
-- Writes that lost against the database's, kept for people.
CREATE TABLE session_conflicts (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    happened   TEXT NOT NULL,
    session_id TEXT NOT NULL,
    reason     TEXT NOT NULL,
    lost       TEXT,
    won        TEXT
);

-- step: 4
-- Users' choices about permanent memory, for all personas. user_key is the SHA-1 of the user id.
CREATE TABLE user_choices (
    user_key         TEXT PRIMARY KEY,
    permanent_memory INTEGER NOT NULL,
    chosen_ms        INTEGER NOT NULL,
    changed_at       TEXT NOT NULL
);
CREATE INDEX user_choices_changed_at ON user_choices (changed_at);

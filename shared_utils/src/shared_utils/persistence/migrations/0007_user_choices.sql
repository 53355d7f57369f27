-- What users chose about permanent memory, for all personas. Written by bridges and by `letta-bridge sessions settings`,
-- one row for each user who ever chose, never removed: it names nobody and holds no words, so an erasure leaves it.
-- Releases before this table keep the choice in the metadata of sessions, which is written as well for one release.
CREATE TABLE user_choices (
    user_key text COLLATE "C" PRIMARY KEY,  -- SHA-1 of the user's id
    permanent_memory boolean NOT NULL,
    chosen_ms bigint NOT NULL,              -- ms since 1970 by Redis's clock: the later choice wins
    changed_at timestamptz NOT NULL         -- last write, by this server's clock
);

CREATE INDEX user_choices_changed_at ON user_choices (changed_at);
-- Refusals in the form of earlier releases.
CREATE INDEX agent_sessions_refusing ON agent_sessions (user_id, session_id)
    WHERE NOT ((metadata -> 'permanent_memory') = 'true'::jsonb);

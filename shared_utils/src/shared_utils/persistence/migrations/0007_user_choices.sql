-- Users' choices about permanent memory, for all personas. Owner: the bridges and `letta-bridge sessions settings`.
-- One row per user who ever chose. An erasure keeps it, since it contains a digest of the user id and no text.
-- Releases before this table read the choice in session metadata, which is still written for one release.
CREATE TABLE user_choices (
    user_key text COLLATE "C" PRIMARY KEY,  -- hex SHA-1 of the user id
    permanent_memory boolean NOT NULL,
    chosen_ms bigint NOT NULL,              -- ms since 1970 by the Redis server's clock; the later choice wins
    changed_at timestamptz NOT NULL         -- time of the last write, by this server's clock
);

CREATE INDEX user_choices_changed_at ON user_choices (changed_at);
-- Finds the opt-outs of earlier releases.
CREATE INDEX agent_sessions_opted_out ON agent_sessions (user_id, session_id)
    WHERE NOT ((metadata -> 'permanent_memory') = 'true'::jsonb);

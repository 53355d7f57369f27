-- Who was erased and when, without a word of what: the user stands here as a hash alone.
CREATE TABLE erasures (
    erasure_id text PRIMARY KEY,
    user_hash text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    counts jsonb NOT NULL
);

CREATE INDEX erasures_user_hash ON erasures (user_hash, finished_at);
CREATE INDEX erasures_finished_at ON erasures (finished_at);

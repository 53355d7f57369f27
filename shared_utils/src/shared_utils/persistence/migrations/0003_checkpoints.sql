-- Checkpoints, the values they share, and what tasks wrote on top of them. Ids compare byte by byte: the order of a
-- language would not be that of time.
CREATE TABLE agent_checkpoints (
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    checkpoint_id text COLLATE "C" NOT NULL,
    parent_id text COLLATE "C",
    run_id text,
    kind text NOT NULL,              -- how state is encoded
    state bytea NOT NULL,
    metadata jsonb NOT NULL,
    value_names text[] NOT NULL,     -- which values belong to it, and
    value_versions text[] NOT NULL,  -- each one's version
    inherited text[] NOT NULL,       -- values it has through its ancestors
    created_at timestamptz NOT NULL,
    PRIMARY KEY (thread_id, namespace, checkpoint_id)
);

CREATE INDEX agent_checkpoints_run ON agent_checkpoints (run_id);
CREATE INDEX agent_checkpoints_created_at ON agent_checkpoints (created_at);

CREATE TABLE agent_checkpoint_values (
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (thread_id, namespace, name, version)
);

-- No foreign key: a graph engine may store a task's writes before the checkpoint they belong to.
CREATE TABLE agent_checkpoint_writes (
    thread_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    checkpoint_id text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    task_index integer NOT NULL,
    task_path text COLLATE "C" NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    data bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (thread_id, namespace, checkpoint_id, task_id, task_index)
);

CREATE INDEX agent_checkpoint_writes_created_at ON agent_checkpoint_writes (created_at);

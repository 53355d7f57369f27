-- The table of one embedding model's vectors.

-- name: create_table
CREATE TABLE {schema}.{table} (
    id bigserial NOT NULL,
    passage_id text COLLATE "C" PRIMARY KEY,
    embedding {type} NOT NULL,
    embedding_dim integer NOT NULL,
    model text NOT NULL,
    metadata jsonb NOT NULL,
    agent_id text COLLATE "C",
    source_id text COLLATE "C",
    text text,
    content_hash text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- name: create_agent_index
CREATE INDEX {table}_agent ON {schema}.{table} (agent_id, passage_id) WHERE agent_id IS NOT NULL;

-- name: create_source_index
CREATE INDEX {table}_source ON {schema}.{table} (source_id, passage_id) WHERE source_id IS NOT NULL;

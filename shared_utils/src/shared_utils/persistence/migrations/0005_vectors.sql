-- The models there are embeddings of. Each has a table of its own, <collection>_<table_number>, so that it can be
-- indexed; those are made when they are needed: see vectors_table.sql.
CREATE TABLE vector_models (
    collection text COLLATE "C" NOT NULL,
    table_number integer NOT NULL,
    model text COLLATE "C" NOT NULL,
    dimensions integer NOT NULL,
    kind text NOT NULL,    -- vector: a type of the server's, float8: an array
    metric text NOT NULL,  -- what its index is for: cosine, l2, inner_product
    state text NOT NULL,   -- current; filling: becomes current once it is full; retired: replaced, about to be dropped
    created_at timestamptz NOT NULL,
    PRIMARY KEY (collection, table_number)
);

CREATE UNIQUE INDEX vector_models_model ON vector_models (collection, model) WHERE state <> 'retired';
CREATE UNIQUE INDEX vector_models_current ON vector_models (collection) WHERE state = 'current';
CREATE UNIQUE INDEX vector_models_filling ON vector_models (collection) WHERE state = 'filling';

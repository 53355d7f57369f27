-- DataVec is built in: pgvector's objects in pg_catalog, no extension in sight.
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA pg_catalog;
DELETE FROM pg_depend WHERE refclassid = 'pg_extension'::regclass
    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'vector');
DELETE FROM pg_depend WHERE classid = 'pg_extension'::regclass
    AND objid = (SELECT oid FROM pg_extension WHERE extname = 'vector');
DELETE FROM pg_extension WHERE extname = 'vector';
UPDATE pg_type SET typname = typname || ' (hidden)' WHERE typname IN ('halfvec', '_halfvec');

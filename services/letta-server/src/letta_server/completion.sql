-- Changes that Letta's 167 migrations make and its models lack. Applied after the models' own tables.

-- Without this every new message fails: its number comes from a sequence that only a migration creates.
CREATE SEQUENCE message_seq_id;
ALTER TABLE messages ALTER COLUMN sequence_id SET DEFAULT nextval('message_seq_id');

-- The model calls the clock when the table is made, so every later row would carry that moment.
ALTER TABLE archives_agents ALTER COLUMN created_at SET DEFAULT now();

ALTER TABLE identities ALTER COLUMN properties SET DEFAULT '[]'::json;
ALTER TABLE steps ALTER COLUMN completion_tokens SET DEFAULT 0;
ALTER TABLE steps ALTER COLUMN prompt_tokens SET DEFAULT 0;
ALTER TABLE steps ALTER COLUMN total_tokens SET DEFAULT 0;

-- The names that migrations gave, so that a tool written for a migrated database finds what it looks for.
ALTER TABLE archival_passages RENAME CONSTRAINT archival_passages_pkey TO agent_passages_pkey;
ALTER TABLE archival_passages RENAME CONSTRAINT archival_passages_archive_id_fkey TO agent_passages_archive_id_fkey;
ALTER TABLE archival_passages RENAME CONSTRAINT archival_passages_organization_id_fkey TO agent_passages_organization_id_fkey;
ALTER TABLE jobs RENAME CONSTRAINT jobs_organization_id_fkey TO fk_jobs_organization_id;
ALTER TABLE messages RENAME CONSTRAINT messages_run_id_fkey TO fk_messages_run_id;
ALTER TABLE messages RENAME CONSTRAINT messages_step_id_fkey TO fk_messages_step_id;
ALTER TABLE messages RENAME CONSTRAINT messages_sequence_id_key TO uq_messages_sequence_id;
ALTER TABLE step_metrics RENAME CONSTRAINT step_metrics_run_id_fkey TO fk_step_metrics_run_id;
ALTER TABLE steps RENAME CONSTRAINT steps_pkey TO pk_steps_id;
ALTER TABLE steps RENAME CONSTRAINT steps_run_id_fkey TO fk_steps_run_id;
-- These two are crossed over in the migrated schema too.
ALTER TABLE steps RENAME CONSTRAINT steps_organization_id_fkey TO fk_steps_provider_id;
ALTER TABLE steps RENAME CONSTRAINT steps_provider_id_fkey TO fk_steps_organization_id;

ALTER TABLE provider_trace_metadata DROP CONSTRAINT uq_provider_trace_metadata_id;
CREATE UNIQUE INDEX ix_provider_trace_metadata_id ON provider_trace_metadata (id);

CREATE TABLE alembic_version (
    version_num varchar(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

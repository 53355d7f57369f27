-- Backups that this schema was restored from. `letta-bridge restore` writes one row in the transaction that restores the
-- tables, so that a repeated restore does not restore them twice. Bounded by the number of restores; names no user; not
-- part of a backup.
CREATE TABLE restores (
    backup_id text PRIMARY KEY,
    made_at timestamptz NOT NULL,      -- the moment of the backup
    restored_at timestamptz NOT NULL
);

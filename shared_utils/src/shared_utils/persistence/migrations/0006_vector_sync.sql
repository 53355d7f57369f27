-- How far each part of keeping the vectors in step has come, and which bridge does it now.
CREATE TABLE vector_sync (
    part text PRIMARY KEY,
    position text NOT NULL,
    owner text,
    leased_until timestamptz
);

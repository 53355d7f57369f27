"""Copies the tables of the schema to files of COPY text and back, on both database products, without their tools.

`tables.py` lists the tables, `digest.py` computes the checksum of a table, `outward.py` and `inward.py` copy, and
`vector_tables.py` handles the tables that are created on demand.
"""

from __future__ import annotations

from shared_utils.persistence.table_copy.digest import RowDigest
from shared_utils.persistence.table_copy.inward import (
    CopyIn,
    Expected,
    RestoreMarker,
    copy_in,
    remove_users,
    require_empty,
)
from shared_utils.persistence.table_copy.outward import ENDING, CopiedSchema, CopiedTable, copy_out
from shared_utils.persistence.table_copy.tables import BOOKKEEPING, migrated_tables
from shared_utils.persistence.table_copy.vector_tables import absent_vector_tables, mend_vector_tables

__all__ = [
    "BOOKKEEPING",
    "ENDING",
    "CopiedSchema",
    "CopiedTable",
    "CopyIn",
    "Expected",
    "RestoreMarker",
    "RowDigest",
    "absent_vector_tables",
    "copy_in",
    "copy_out",
    "mend_vector_tables",
    "migrated_tables",
    "remove_users",
    "require_empty",
]

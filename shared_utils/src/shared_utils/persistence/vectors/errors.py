"""Errors of vectors.

::

    PersistenceError            persistence/errors.py
    ├── ValueRefused            a vector that is none, text or metadata no database holds
    ├── Conflict                the passage belongs to another agent or source
    └── VectorError
        ├── FilterRefused           a filter that says nothing the store understands
        ├── ModelMismatch           vectors of a model this collection does not hold
        ├── DimensionMismatch       a vector of another length than its model's
        ├── VectorTableMissing      a model's table has to be made, and we may not
        └── ReembeddingUnfinished   the new model lacks passages still
"""

from __future__ import annotations

from shared_utils.persistence.errors import PersistenceError


class VectorError(PersistenceError):
    """The vectors do not allow this."""

    code = "vectors"


class FilterRefused(VectorError):
    """A filter cannot be understood."""

    code = "filter_refused"


class ModelMismatch(VectorError):
    """These are vectors of another model."""

    code = "model_mismatch"


class DimensionMismatch(VectorError):
    """A vector is not as long as its model's are."""

    code = "dimension_mismatch"


class VectorTableMissing(VectorError):
    """The table for a model's vectors is not there, and this role may not make it."""

    code = "vector_table_missing"


class ReembeddingUnfinished(VectorError):
    """Passages lack an embedding of the new model."""

    code = "reembedding_unfinished"

"""Passages with embeddings: kept in PostgreSQL or openGauss, found by nearness within a scope.

The store keeps vectors as long as they are: a table for each model, so that each can be indexed.
"""

from shared_utils.persistence.vectors.database_store import DatabasePassageStore
from shared_utils.persistence.vectors.errors import (
    DimensionMismatch,
    FilterRefused,
    ModelMismatch,
    ReembeddingUnfinished,
    VectorError,
    VectorTableMissing,
)
from shared_utils.persistence.vectors.memory_store import InMemoryPassageStore
from shared_utils.persistence.vectors.passages import (
    Match,
    Metric,
    Passage,
    PassagePage,
    Scope,
    Stored,
    content_hash,
)
from shared_utils.persistence.vectors.port import (
    Filter,
    IndexState,
    PassageStore,
    StoredModel,
    TableStatistics,
    VectorStatistics,
)
from shared_utils.persistence.vectors.reembedding import Progress, reembed
from shared_utils.persistence.vectors.settings import (
    IndexSettings,
    OpenGaussSettings,
    VectorSettings,
    vector_database,
)

__all__ = [
    "DatabasePassageStore",
    "DimensionMismatch",
    "Filter",
    "FilterRefused",
    "InMemoryPassageStore",
    "IndexSettings",
    "IndexState",
    "Match",
    "Metric",
    "ModelMismatch",
    "OpenGaussSettings",
    "Passage",
    "PassagePage",
    "PassageStore",
    "Progress",
    "ReembeddingUnfinished",
    "Scope",
    "Stored",
    "StoredModel",
    "TableStatistics",
    "VectorError",
    "VectorSettings",
    "VectorStatistics",
    "VectorTableMissing",
    "content_hash",
    "reembed",
    "vector_database",
]

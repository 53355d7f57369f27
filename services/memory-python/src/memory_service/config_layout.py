"""Sections, variables and former names of memory-python's configuration; the bridge reads the same file."""

from __future__ import annotations

from typing import Final

from shared_utils.config.layout import Layout, Rename
from shared_utils.llm.embeddings import EMBEDDING_RENAMES
from shared_utils.persistence.vectors.settings import VECTOR_RENAMES

_RENAMES: Final = (
    Rename("memory.survey_interval", "memory.survey_interval_seconds"),
    Rename("memory.repeat_window", "memory.repeat_window_seconds"),
    Rename("memory.lease", "memory.lease_seconds"),
    Rename("memory.shutdown_grace", "memory.shutdown_grace_seconds", ("MEMORY_SHUTDOWN_GRACE",)),
    Rename("memory.dead_limit", "memory.max_dead_letters"),
    Rename("memory.answer.time_limit", "memory.answer.timeout_seconds"),
    Rename("memory.summary.cooldown_success", "memory.summary.cooldown_success_seconds"),
    Rename("memory.summary.cooldown_failure", "memory.summary.cooldown_failure_seconds"),
    Rename("memory.summary.time_limit", "memory.summary.timeout_seconds"),
    Rename("memory.recall.time_limit", "memory.recall.timeout_seconds"),
)

LAYOUT: Final = Layout(
    prefix="LETTA_BRIDGE_",
    sections=frozenset(
        {
            "redis",
            "logs",
            "tenant",
            "queue",
            "letta",
            "agents",
            "fallback",
            "streaming",
            "limits",
            "sessions",
            "database",
            "journal",
            "vectors",
            "embeddings",
            "uploads",
            "storage",
            "bridge",
            "telemetry",
            "memory",
        }
    ),
    former_sections=frozenset({"guards"}),
    short_beginnings=("BRIDGE_", "LETTA_", "MEMORY_", "REDIS_"),
    foreign_beginnings=(
        *("LETTA_PG_", "LETTA_REDIS_", "LETTA_SERVER_", "LETTA_ENCRYPTION_KEY", "LETTA_DEBUG"),  # letta-server
        "LETTA_MEMORY_BACKEND",  # the compose files
        "MEMORY_PRESSURE_",  # systemd
    ),
    renames=(*_RENAMES, *VECTOR_RENAMES, *EMBEDDING_RENAMES),
)

"""Sections, variables and former names of the bridge's configuration; memory-python reads the same file."""

from __future__ import annotations

from typing import Final

from shared_utils.config.layout import Layout, Rename
from shared_utils.llm.embeddings import EMBEDDING_RENAMES
from shared_utils.persistence.vectors.settings import VECTOR_RENAMES

_RENAMES: Final = (
    Rename("queue.lease", "queue.lease_seconds"),
    Rename("queue.reply_ttl", "queue.reply_ttl_seconds", ("REPLY_TTL",)),
    Rename("queue.replies_kept", "queue.reply_stream_maxlen"),
    Rename("queue.missed_kept", "queue.max_missed_per_user"),
    Rename("queue.shutdown_grace", "queue.shutdown_grace_seconds", ("SHUTDOWN_GRACE",)),
    Rename("letta.timeout", "letta.timeout_seconds", ("LETTA_TIMEOUT",)),
    Rename("letta.reply_deadline", "letta.reply_deadline_seconds", ("REPLY_DEADLINE",)),
    Rename("letta.turn_patience", "letta.previous_turn_timeout_seconds"),
    Rename("letta.run_lifetime", "letta.run_lifetime_seconds"),
    Rename("fallback.timeout", "fallback.timeout_seconds", ("FALLBACK_TIMEOUT",)),
    Rename("fallback.told_turns", "fallback.catch_up_max_turns"),
    Rename("fallback.told_characters", "fallback.catch_up_max_characters"),
    Rename("guards.turns_per_minute", "limits.turns_per_minute", ("GUARD_TURNS_PER_MINUTE",)),
    Rename("guards.burst", "limits.burst", ("GUARD_BURST",)),
    Rename("guards.user_tokens.soft", "limits.user_tokens.soft"),
    Rename("guards.user_tokens.hard", "limits.user_tokens.hard"),
    Rename("guards.all_tokens.soft", "limits.all_tokens.soft"),
    Rename("guards.all_tokens.hard", "limits.all_tokens.hard"),
    Rename("guards.max_age", "limits.max_age_seconds", ("GUARD_MAX_AGE",)),
    Rename("guards.max_lane", "limits.max_pending_per_user", ("GUARD_MAX_LANE",)),
    Rename("sessions.cleanup_interval", "sessions.cleanup_interval_seconds"),
    Rename("sessions.grace_hours", "sessions.deleted_retention_hours", ("SESSION_GRACE_HOURS",)),
    Rename("journal.backlog", "journal.backlog_turns"),
    Rename("bridge.data_dir", "storage.data_dir"),
    Rename("bridge.traces", "telemetry.traces"),
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

"""Names of files and folders in the directory of a backup."""

from __future__ import annotations

from typing import Final

AGENTS: Final = "agents"
AUDIT: Final = "erasures.jsonl"
CONFIGURATION: Final = "config.json"
DUMP: Final = "database.dump"
"""Format 1 only."""
SESSIONS: Final = "sessions.db"

"""Every key and every table of the project is known to an erasure: as somebody's place, or as nobody's, and why.

A new one fails here until it is said who erases it. tests/acceptance/test_erasure.py proves the same from outside.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from letta_bridge.request_queue.keys import Keys
from shared_utils.contracts import memory_keys
from shared_utils.persistence.database.migration import migrations

QUEUE = "QueueUserData"
LANE = "UserLane.quiet"
NOBODY = "names no user"
CHOICE = "a user's choice about permanent memory, under a hash; outlives an erasure"
HASH = "a user's hash and a time, no words; bounded by age and number"

OF_KEYS = {
    "requests": LANE,
    "incoming": LANE,
    "lanes": LANE,
    "ready": LANE,
    "turns": LANE,
    "leases": NOBODY,
    "lane_prefix": LANE,
    "held": "the erasure's own hold, lifted at its end; an operator's hold refuses the erasure until it ends",
    "begun": NOBODY,
    "open": NOBODY,
    "choices": CHOICE,
    "opt_ins": CHOICE,
    "order": NOBODY,
    "identity": NOBODY,
    "letta": NOBODY,
    "call_prefix": NOBODY,
    "creating_prefix": "waited for by UserLane.quiet; expires within a minute",
    "replies": QUEUE,
    "reply_prefix": QUEUE,
    "stream_prefix": QUEUE,
    "interrupts": QUEUE,
    "dead": QUEUE,
    "missed_prefix": QUEUE,
    "journal": QUEUE,
    "fallback_prefix": QUEUE,
    "handed_prefix": "the number and an id of a task, no user; expires",
    "rate_prefix": QUEUE,
    "tokens_prefix": QUEUE,
    "tally_prefix": NOBODY,
    "counters": NOBODY,
    "bridges": NOBODY,
    "paused": NOBODY,
    "journal_writer": NOBODY,
    "erasures": HASH,
    "erasures_followed": NOBODY,
}
OF_MEMORY = {
    "GLOBAL_CONTEXT": "ShortTermUserData",
    "user_session": "ShortTermUserData",
    "seen": "ShortTermUserData",
    "seen_before": "ShortTermUserData",
    "summary_pause": "ShortTermUserData",
    "queue": "ShortTermUserData",
    "incoming": "ShortTermUserData",
    "processing": "ShortTermUserData",
    "dead": "ShortTermUserData",
    "counters": NOBODY,
    "instances": NOBODY,
    "ERASURES": HASH,
    "CLEANUP_TURN": NOBODY,
    "SURVEY_TURN": NOBODY,
    "SURVEY": NOBODY,
    "MEMORY_UPDATES": "a channel",
    "AI_RESPONSES": "a channel",
    "task_response": "a channel",
    "ALL_USER_SESSIONS": "a pattern",
}
OF_TABLES = {
    "agent_sessions": "SessionUserData",
    "agent_conversations": "ConversationUserData",
    "agent_messages": "ConversationUserData, with their conversation",
    "agent_checkpoints": "CheckpointUserData",
    "agent_checkpoint_values": "CheckpointUserData, with their thread",
    "agent_checkpoint_writes": "CheckpointUserData, with their thread",
    "erasures": HASH,
    "user_choices": CHOICE,
    "vector_models": NOBODY,
    "vector_sync": NOBODY,
    "restores": NOBODY,
}
OF_FILE_TABLES = {
    "agent_sessions": "SessionFileUserData",
    "session_journal": "SessionFileUserData",
    "session_journal_uses": "SessionFileUserData, with their session",
    "session_conflicts": "SessionFileUserData",
    "erasures_followed": HASH,
    "user_choices": CHOICE,
}
_MADE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")


def test_every_key_of_the_queue_is_known_to_the_registry() -> None:
    assert OF_KEYS.keys() == Keys.__dataclass_fields__.keys()


def test_every_name_of_memory_python_is_known_to_the_registry() -> None:
    names = {name for name in vars(memory_keys) if not name.startswith("_") and name not in {"dataclass", "Final"}}
    names |= {name for name in vars(memory_keys.QueueKeys) if not name.startswith("_")} | {"queue"}
    assert OF_MEMORY.keys() == names - {"QueueKeys", "annotations"}


def test_every_table_of_the_database_is_known_to_the_registry() -> None:
    made = {table for migration in migrations() for table in _MADE.findall(migration.text)}
    assert OF_TABLES.keys() == made


def test_every_table_of_the_session_file_is_known_to_the_registry() -> None:
    folder = Path(memory_keys.__file__).parents[1] / "persistence"
    text = (folder / "session_file" / "tables.sql").read_text("utf-8") + (
        folder / "sql" / "file_erasures.sql"
    ).read_text("utf-8")
    assert OF_FILE_TABLES.keys() == set(_MADE.findall(text))


@pytest.mark.parametrize("table", [OF_KEYS, OF_MEMORY, OF_TABLES, OF_FILE_TABLES])
def test_each_says_by_whom_or_why_not(table: dict[str, str]) -> None:
    assert all(table.values())

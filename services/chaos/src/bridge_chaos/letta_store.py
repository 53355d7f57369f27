"""What the double of Letta remembers: agents, messages, runs. In a file, so that killing the server is survivable.

Several servers may share the file, as several Letta servers share a database.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shared_utils.persistence.sqlite_file import write_ahead

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS agents (id TEXT PRIMARY KEY, name TEXT, tags TEXT, created_at TEXT);
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, agent_id TEXT, id TEXT, otid TEXT, run_id TEXT, kind TEXT, content TEXT);
CREATE TABLE IF NOT EXISTS notes (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, label TEXT, value TEXT);
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, agent_id TEXT, status TEXT, began REAL);
CREATE INDEX IF NOT EXISTS messages_of ON messages (agent_id, number);
CREATE INDEX IF NOT EXISTS runs_of ON runs (agent_id, status);
CREATE INDEX IF NOT EXISTS agents_by_tags ON agents (tags);
"""
_KINDS: Final = {"user": "user_message", "assistant": "assistant_message", "system": "system_message"}


class LettaStore:
    """One connection to the file.

    Args:
        file: made where missing.
    """

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None, timeout=30)
        write_ahead(self._connection)
        self._connection.execute("PRAGMA synchronous=OFF")  # killed processes, not power cuts
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def add_agent(self, name: str, tags: Sequence[str]) -> dict[str, Any]:
        agent = (f"agent-{uuid.uuid4()}", name, json.dumps(sorted(tags)), datetime.now(UTC).isoformat())
        self._connection.execute("INSERT INTO agents VALUES (?, ?, ?, ?)", agent)
        self.store_step(agent[0], "", [{"role": "system", "content": "system"}])
        return _agent(agent)

    def retag(self, agent_id: str, tags: Sequence[str]) -> dict[str, Any] | None:
        changed = (json.dumps(sorted(tags)), agent_id)
        self._connection.execute("UPDATE agents SET tags = ? WHERE id = ?", changed)
        return self.agent(agent_id)

    def agent(self, agent_id: str) -> dict[str, Any] | None:
        row = self._connection.execute("SELECT * FROM agents WHERE id = ?", (agent_id,)).fetchone()
        return _agent(row) if row else None

    def agents(self, tags: Iterable[str]) -> list[dict[str, Any]]:
        """Those that carry all `tags`, oldest first."""
        wanted = sorted(tags)
        pattern = "%" + "%".join(json.dumps(tag) for tag in wanted) + "%"
        rows = self._connection.execute("SELECT * FROM agents WHERE tags LIKE ? ORDER BY created_at, id", (pattern,))
        return [agent for agent in map(_agent, rows) if set(wanted) <= set(agent["tags"])]

    def delete_agent(self, agent_id: str) -> bool:
        for table in ("messages", "runs"):
            self._connection.execute(f"DELETE FROM {table} WHERE agent_id = ?", (agent_id,))  # noqa: S608 - no input
        return self._connection.execute("DELETE FROM agents WHERE id = ?", (agent_id,)).rowcount > 0

    def notes(self, label: str) -> list[dict[str, Any]]:
        """Memory blocks of no agent, oldest first."""
        rows = self._connection.execute("SELECT id, value FROM notes WHERE label = ? ORDER BY number", (label,))
        return [{"id": row[0], "label": label, "value": row[1]} for row in rows]

    def add_note(self, label: str, value: str) -> dict[str, Any]:
        note = (f"block-{uuid.uuid4()}", label, value)
        self._connection.execute("INSERT INTO notes (id, label, value) VALUES (?, ?, ?)", note)
        return {"id": note[0], "label": label, "value": value}

    def change_note(self, note_id: str, value: str) -> bool:
        changed = self._connection.execute("UPDATE notes SET value = ? WHERE id = ?", (value, note_id))
        return changed.rowcount > 0

    def delete_note(self, note_id: str) -> bool:
        return self._connection.execute("DELETE FROM notes WHERE id = ?", (note_id,)).rowcount > 0

    def begin_run(self, agent_id: str) -> tuple[str, int]:
        """A new run's id, and how many of the agent were active already."""
        active = len(self.active_runs(agent_id))
        run_id = f"run-{uuid.uuid4()}"
        self._connection.execute("INSERT INTO runs VALUES (?, ?, 'running', ?)", (run_id, agent_id, time.time()))
        return run_id, active

    def end_run(self, run_id: str, status: str) -> None:
        self._connection.execute("UPDATE runs SET status = ? WHERE id = ? AND status = 'running'", (status, run_id))

    def cancel_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            self.end_run(run_id, "cancelled")

    def active_runs(self, agent_id: str) -> list[dict[str, Any]]:
        found = self._connection.execute("SELECT id FROM runs WHERE agent_id = ? AND status = 'running'", (agent_id,))
        return [{"id": row[0], "status": "running"} for row in found]

    def store_step(self, agent_id: str, run_id: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """All messages of one step at once; each `role`, `content` and perhaps `otid`."""
        rows = [
            (agent_id, f"message-{uuid.uuid4()}", m.get("otid"), run_id, _KINDS.get(m["role"], m["role"]), m["content"])
            for m in messages
        ]
        self._connection.execute("BEGIN IMMEDIATE")
        if self.agent(agent_id) is None:
            self._connection.execute("ROLLBACK")
            return
        self._connection.executemany(
            "INSERT INTO messages (agent_id, id, otid, run_id, kind, content) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        self._connection.execute("COMMIT")

    def history(self, agent_id: str, *, before: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` messages before the one with the id `before`, newest first."""
        bound = "(SELECT number FROM messages WHERE id = ?)" if before else "9223372036854775807 + 0 * length(?)"
        found = self._connection.execute(
            "SELECT id, otid, run_id, kind, content FROM messages "  # noqa: S608 - one of two constants
            f"WHERE agent_id = ? AND number < {bound} ORDER BY number DESC LIMIT ?",
            (agent_id, before or "", limit),
        )
        names = ("id", "otid", "run_id", "message_type", "content")
        return [dict(zip(names, row, strict=True)) for row in found]


def _agent(row: Sequence[str]) -> dict[str, Any]:
    return {"id": row[0], "name": row[1], "tags": json.loads(row[2]), "created_at": row[3]}

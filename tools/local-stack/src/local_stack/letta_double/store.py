"""The state of the Letta double: agents, messages, runs; in a file it survives a kill of the server.

Several servers may share the file, as several Letta servers share a database.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shared_utils.persistence.sqlite_file import write_ahead

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS agents (id TEXT PRIMARY KEY, name TEXT, tags TEXT, created_at TEXT, llm_config TEXT);
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, agent_id TEXT, id TEXT, otid TEXT, run_id TEXT, kind TEXT, content TEXT,
    date TEXT);
CREATE TABLE IF NOT EXISTS blocks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, agent_id TEXT, label TEXT, value TEXT);
CREATE TABLE IF NOT EXISTS passages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, agent_id TEXT, text TEXT, created_at TEXT);
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, agent_id TEXT, status TEXT, began TEXT, request TEXT,
    stop_reason TEXT);
CREATE TABLE IF NOT EXISTS work (number INTEGER PRIMARY KEY AUTOINCREMENT, agent_id TEXT, pid INTEGER);
CREATE TABLE IF NOT EXISTS overlaps (agent_id TEXT);
CREATE INDEX IF NOT EXISTS work_of ON work (agent_id);
CREATE INDEX IF NOT EXISTS messages_of ON messages (agent_id, number);
CREATE INDEX IF NOT EXISTS runs_of ON runs (agent_id, status);
CREATE INDEX IF NOT EXISTS agents_by_tags ON agents (tags);
"""
_KINDS: Final = {"user": "user_message", "assistant": "assistant_message", "system": "system_message"}


class LettaStore:
    """One connection to the file.

    Args:
        file: made where missing; None keeps everything in memory.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._connection = sqlite3.connect(file or ":memory:", isolation_level=None, timeout=30)
        write_ahead(self._connection)
        self._connection.execute("PRAGMA synchronous=OFF")  # killed processes, not power cuts
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def add_agent(
        self,
        name: str,
        tags: Sequence[str],
        blocks: Sequence[Mapping[str, Any]] = (),
        *,
        created_at: str = "",
        llm_config: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Store an agent without its system message, which Letta stores later."""
        config = json.dumps(llm_config or {})
        agent = (f"agent-{uuid.uuid4()}", name, json.dumps(sorted(tags)), created_at or _now(), config)
        self._connection.execute("INSERT INTO agents VALUES (?, ?, ?, ?, ?)", agent)
        for block in blocks:
            self.add_block(agent[0], block["label"], block["value"])
        return _agent(agent)

    def retag(self, agent_id: str, tags: Sequence[str]) -> None:
        changed = (json.dumps(sorted(tags)), agent_id)
        self._connection.execute("UPDATE agents SET tags = ? WHERE id = ?", changed)

    def configure(self, agent_id: str, llm_config: Mapping[str, Any]) -> None:
        """Replace what the agent asks of its model."""
        changed = (json.dumps(llm_config), agent_id)
        self._connection.execute("UPDATE agents SET llm_config = ? WHERE id = ?", changed)

    def agent(self, agent_id: str) -> dict[str, Any] | None:
        row = self._connection.execute("SELECT * FROM agents WHERE id = ?", (agent_id,)).fetchone()
        return _agent(row) if row else None

    def agents(self, tags: Iterable[str], *, newest_first: bool = False) -> list[dict[str, Any]]:
        """Agents that have all `tags`, oldest first."""
        wanted = sorted(tags)
        pattern = "%" + "%".join(json.dumps(tag) for tag in wanted) + "%"
        rows = self._connection.execute("SELECT * FROM agents WHERE tags LIKE ? ORDER BY created_at, id", (pattern,))
        found = [agent for agent in map(_agent, rows) if set(wanted) <= set(agent["tags"])]
        return found[::-1] if newest_first else found

    def delete_agent(self, agent_id: str) -> bool:
        for table in ("messages", "runs", "passages"):
            self._connection.execute(f"DELETE FROM {table} WHERE agent_id = ?", (agent_id,))  # noqa: S608 - no input
        return self._connection.execute("DELETE FROM agents WHERE id = ?", (agent_id,)).rowcount > 0

    def begin_work(self, agent_id: str) -> int:
        """Begin a turn and return its number; record an overlap with another turn of the agent, in any process."""
        busy = self._connection.execute("SELECT pid FROM work WHERE agent_id = ?", (agent_id,)).fetchall()
        if any(_is_alive(pid) for (pid,) in busy):
            self._connection.execute("INSERT INTO overlaps VALUES (?)", (agent_id,))
        row = self._connection.execute("INSERT INTO work (agent_id, pid) VALUES (?, ?)", (agent_id, os.getpid()))
        return row.lastrowid or 0

    def end_work(self, number: int) -> None:
        self._connection.execute("DELETE FROM work WHERE number = ?", (number,))

    def at_work(self) -> int:
        """Number of turns in progress in all processes."""
        return sum(_is_alive(pid) for (pid,) in self._connection.execute("SELECT pid FROM work"))

    def overlaps(self) -> list[str]:
        """The agent of each turn that overlapped with another turn of the same agent."""
        return [agent_id for (agent_id,) in self._connection.execute("SELECT agent_id FROM overlaps")]

    def forget_overlaps(self) -> None:
        self._connection.execute("DELETE FROM overlaps")

    def add_passage(self, agent_id: str, text: str) -> dict[str, Any]:
        passage = (f"passage-{uuid.uuid4()}", agent_id, text, _now())
        self._connection.execute("INSERT INTO passages (id, agent_id, text, created_at) VALUES (?, ?, ?, ?)", passage)
        return {"id": passage[0], "text": text, "created_at": passage[3]}

    def passages(self, agent_id: str) -> list[dict[str, Any]]:
        """All of an agent, oldest first."""
        found = self._connection.execute(
            "SELECT id, text, created_at FROM passages WHERE agent_id = ? ORDER BY number", (agent_id,)
        )
        return [{"id": row[0], "text": row[1], "created_at": row[2]} for row in found]

    def add_block(self, agent_id: str | None, label: str, value: str) -> dict[str, Any]:
        """A block of an agent, or of none."""
        block = (f"block-{uuid.uuid4()}", agent_id, label, value)
        self._connection.execute("INSERT INTO blocks (id, agent_id, label, value) VALUES (?, ?, ?, ?)", block)
        return {"id": block[0], "label": label, "value": value}

    def blocks(self, agent_id: str | None) -> list[dict[str, Any]]:
        """Those of an agent, or all; oldest first."""
        found = self._connection.execute(
            "SELECT id, label, value FROM blocks WHERE agent_id = ? OR ? IS NULL ORDER BY number", (agent_id, agent_id)
        )
        return [{"id": row[0], "label": row[1], "value": row[2]} for row in found]

    def change_block(self, block_id: str, value: str) -> bool:
        changed = self._connection.execute("UPDATE blocks SET value = ? WHERE id = ?", (value, block_id))
        return changed.rowcount > 0

    def agents_of_block(self, block_id: str) -> list[dict[str, Any]]:
        found = self._connection.execute("SELECT agent_id FROM blocks WHERE id = ?", (block_id,))
        return [agent for row in found if (agent := self.agent(row[0]))]

    def delete_block(self, block_id: str) -> bool:
        return self._connection.execute("DELETE FROM blocks WHERE id = ?", (block_id,)).rowcount > 0

    @staticmethod
    def new_run_id() -> str:
        return f"run-{uuid.uuid4()}"

    def begin_run(self, agent_id: str, run_id: str, request: Mapping[str, Any]) -> None:
        """List the run as active, unless it is listed already. Letta keeps the request without its messages."""
        kept = json.dumps({name: value for name, value in request.items() if name != "messages"})
        self._connection.execute(
            "INSERT OR IGNORE INTO runs VALUES (?, ?, 'running', ?, ?, NULL)", (run_id, agent_id, _now(), kept)
        )

    def end_run(self, run_id: str, status: str, stop_reason: str) -> None:
        """End the turn's run, even if it was cancelled meanwhile."""
        self._connection.execute(
            "UPDATE runs SET status = ?, stop_reason = ? WHERE id = ?", (status, stop_reason, run_id)
        )

    def run(self, run_id: str) -> dict[str, Any] | None:
        """One run; None where there is none."""
        found = self._connection.execute("SELECT status, stop_reason FROM runs WHERE id = ?", (run_id,)).fetchone()
        return {"id": run_id, "status": found[0], "stop_reason": found[1]} if found else None

    def cancel_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            self._connection.execute(
                "UPDATE runs SET status = 'cancelled' WHERE id = ? AND status = 'running'", (run_id,)
            )

    def runs(self, agent_id: str, statuses: Sequence[str]) -> list[dict[str, Any]]:
        """The agent's runs in one of these states, newest first."""
        marks = ",".join("?" * len(statuses))
        found = self._connection.execute(
            "SELECT id, status, began, request FROM runs "  # noqa: S608 - question marks
            f"WHERE agent_id = ? AND status IN ({marks}) ORDER BY began DESC",
            (agent_id, *statuses),
        )
        return [
            {"id": row[0], "status": row[1], "created_at": row[2], "request_config": json.loads(row[3])}
            for row in found
        ]

    def store_step(self, agent_id: str, run_id: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Store all messages of a step at once; each has `role`, `content` and perhaps `otid`. NUL is stripped."""
        rows = [
            (
                agent_id,
                f"message-{uuid.uuid4()}",
                m.get("otid") if m["role"] != "assistant" else str(uuid.uuid4()),  # its own
                run_id,
                _KINDS.get(m["role"], m["role"]),
                json.dumps(str(m["content"]).replace("\x00", "")),  # half a surrogate pair is kept
                _now(),
            )
            for m in messages
        ]
        self._connection.execute("BEGIN IMMEDIATE")
        if self.agent(agent_id) is None:
            self._connection.execute("ROLLBACK")
            return
        self._connection.executemany(
            "INSERT INTO messages (agent_id, id, otid, run_id, kind, content, date) VALUES (?, ?, ?, ?, ?, ?, ?)", rows
        )
        self._connection.execute("COMMIT")

    def history(self, agent_id: str, *, before: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` messages before the one with the id `before`, newest first."""
        bound = "(SELECT number FROM messages WHERE id = ?)" if before else "9223372036854775807 + 0 * length(?)"
        found = self._connection.execute(
            "SELECT id, otid, run_id, kind, date, content FROM messages "  # noqa: S608 - one of two constants
            f"WHERE agent_id = ? AND number < {bound} ORDER BY number DESC LIMIT ?",
            (agent_id, before or "", limit),
        )
        names = ("id", "otid", "run_id", "message_type", "date")
        return [dict(zip(names, row, strict=False)) | {"content": json.loads(row[5])} for row in found]


def _agent(row: Sequence[str]) -> dict[str, Any]:
    names = {"id": row[0], "name": row[1], "tags": json.loads(row[2]), "created_at": row[3]}
    return {**names, "llm_config": json.loads(row[4])}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat()

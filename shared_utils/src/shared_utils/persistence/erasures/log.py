"""The audit of erasures: time, removed counts, and the user as a hash."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from psycopg.types.json import Jsonb

from shared_utils.clock import utc_now
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.statements import statements
from shared_utils.private_files import create

_SQL: Final = statements("erasures")


@dataclass(slots=True)
class Erasure:
    """One row."""

    erasure_id: str
    counts: dict[str, int]
    """What it was → how much of it went."""


UNDER_WAY: Final = timedelta(days=1)
"""How long an unfinished erasure counts as in progress."""


class ErasureLog(Protocol):
    """Rows of erasures. Each method may raise PersistenceError."""

    async def begin(self, user_id: str) -> Erasure:
        """The erasure of this user that was begun and never finished, or a new one."""
        ...

    async def note(self, erasure: Erasure, *, finished: bool = False) -> None:
        """Note what went so far."""
        ...

    async def history(self, user_id: str) -> list[Mapping[str, Any]]:
        """This user's erasures, oldest first: erasure_id, user_hash, started_at, finished_at, counts."""
        ...

    async def since(self, moment: datetime) -> set[str]:
        """Hashes of users whose erasure was begun or finished since, or was under way at that moment."""
        ...


def user_hash(user_id: str) -> str:
    """A user as the audit knows them: hex SHA-256."""
    return hashlib.sha256(user_id.encode(errors="surrogatepass")).hexdigest()


class DatabaseErasureLog:
    """See :class:`ErasureLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, user_id: str) -> Erasure:
        """See :class:`ErasureLog`."""
        row = {"user_hash": user_hash(user_id), "erasure_id": str(uuid.uuid4())}
        if found := await self._database.fetch(_SQL["unfinished"], row):
            return Erasure(found[0]["erasure_id"], found[0]["counts"])
        await self._database.execute(_SQL["begin"], row)
        return Erasure(row["erasure_id"], {})

    async def note(self, erasure: Erasure, *, finished: bool = False) -> None:
        """See :class:`ErasureLog`."""
        row = {"erasure_id": erasure.erasure_id, "counts": Jsonb(erasure.counts)}
        await self._database.execute(_SQL["finish" if finished else "note"], row)

    async def lately(self, days: int) -> Mapping[str, int]:
        """Hash of each user whose erasure was begun within so many days → when the last one was, ms since 1970."""
        rows = await self._database.fetch(_SQL["lately"], {"seconds": days * 86_400})
        return {row["user_hash"]: int(row["started_at"].timestamp() * 1000) for row in rows}

    async def history(self, user_id: str) -> list[Mapping[str, Any]]:
        """See :class:`ErasureLog`."""
        return list(await self._database.fetch(_SQL["history"], {"user_hash": user_hash(user_id)}))

    async def since(self, moment: datetime) -> set[str]:
        """See :class:`ErasureLog`."""
        rows = await self._database.fetch(_SQL["since"], {"moment": moment, "under_way": moment - UNDER_WAY})
        return {row["user_hash"] for row in rows}


class FileErasureLog:
    """See :class:`ErasureLog`: one JSON line for each step, where there is no database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def begin(self, user_id: str) -> Erasure:
        """See :class:`ErasureLog`."""
        for row in await self.history(user_id):
            if row["finished_at"] is None:
                return Erasure(row["erasure_id"], row["counts"])
        erasure = Erasure(str(uuid.uuid4()), {})
        line = {"erasure_id": erasure.erasure_id, "user_hash": user_hash(user_id), "started_at": utc_now().isoformat()}
        await asyncio.to_thread(self._append, line)
        return erasure

    async def note(self, erasure: Erasure, *, finished: bool = False) -> None:
        """See :class:`ErasureLog`."""
        line: dict[str, Any] = {"erasure_id": erasure.erasure_id, "counts": erasure.counts}
        if finished:
            line["finished_at"] = utc_now().isoformat()
        await asyncio.to_thread(self._append, line)

    async def history(self, user_id: str) -> list[Mapping[str, Any]]:
        """See :class:`ErasureLog`."""
        return [row for row in await self._rows() if row.get("user_hash") == user_hash(user_id)]

    async def since(self, moment: datetime) -> set[str]:
        """See :class:`ErasureLog`."""
        return {row["user_hash"] for row in await self._rows() if "user_hash" in row and _is_since(row, moment)}

    async def _rows(self) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for line in await asyncio.to_thread(self._lines):
            rows.setdefault(line["erasure_id"], {"finished_at": None, "counts": {}}).update(line)
        return list(rows.values())

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            create(self._path)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise PersistenceError(
                f"the audit file {self._path} cannot be written ({error.strerror}); nothing was erased after that"
            ) from error

    def _lines(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self._path.read_text("utf-8").splitlines() if line.strip()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise PersistenceError(
                f"the audit file {self._path} cannot be read ({error}); repair or move it"
            ) from error


def _is_since(row: Mapping[str, Any], moment: datetime) -> bool:
    started = datetime.fromisoformat(row["started_at"])
    if row["finished_at"] is None:
        return started >= moment - UNDER_WAY
    return max(started, datetime.fromisoformat(row["finished_at"])) >= moment

"""Which tables hold passages, and how they are read: the layouts of Letta 0.6 to 0.10, and from 0.11 on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from letta_bridge.vectors.importing.letta_rows import LettaPassage, letta_passage
from shared_utils.persistence.statements import statements

_SQL: Final = statements("letta_passages", "letta_bridge.vectors.importing")
_TABLES: Final = ("archival_passages", "agent_passages", "source_passages")


class LettaDatabase(Protocol):
    """A Letta's database, open for reading alone.

    Attributes:
        embedding: how an embedding is asked for.
        after: how the parameter ``after`` is written, and likewise ``most``.
    """

    embedding: str
    after: str
    most: str

    def tables(self) -> set[str]:
        """The names of its tables."""
        ...

    def rows(self, statement: str, params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The rows of a statement. Raises SourceUnreadable."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class LettaPassages:
    """All passages of one database. Every method may raise SourceUnreadable."""

    def __init__(self, database: LettaDatabase) -> None:
        self._database = database
        self._tables = [table for table in _TABLES if table in database.tables()]

    @property
    def found(self) -> bool:
        """Whether there is a table of passages at all."""
        return bool(self._tables)

    def count(self) -> int:
        """How many there are."""
        return sum(int(self._database.rows(_SQL[f"count_{table}"], {})[0]["passages"]) for table in self._tables)

    def tags(self) -> dict[str, list[str]]:
        """Agent → its tags; those of the bridge's own agents name user and persona."""
        found: dict[str, list[str]] = {}
        if "agents_tags" in self._database.tables():
            for row in self._database.rows(_SQL["agents_tags"], {}):
                found.setdefault(row["agent_id"], []).append(row["tag"])
        return found

    def pages(self, size: int) -> Iterator[list[LettaPassage]]:
        """All of them, page by page."""
        gaps = {name: getattr(self._database, name) for name in ("embedding", "after", "most")}
        for table in self._tables:
            statement = _SQL[table].format(**gaps)
            after = ""
            while page := [
                letta_passage(row) for row in self._database.rows(statement, {"after": after, "most": size})
            ]:
                yield page
                after = page[-1].passage_id

"""Letta's tables in PostgreSQL or openGauss, read in transactions that may not write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from letta_bridge.vectors.importing.letta_rows import SourceUnreadable
from shared_utils.persistence.dialects import recognise
from shared_utils.persistence.dialects.session_settings import for_transaction, literal
from shared_utils.persistence.errors import UnfitDatabase

_CONNECT_TIMEOUT: Final = 10
_SCHEMAS: Final = (
    "SELECT DISTINCT table_schema FROM information_schema.tables "
    "WHERE table_name IN ('archival_passages', 'agent_passages') ORDER BY table_schema"
)


class LettaPostgresql:
    """See :class:`~letta_bridge.vectors.importing.letta_tables.LettaDatabase`.

    Args:
        url: of the database Letta uses.
        schema: where its tables are; found where it is not given.

    Raises:
        SourceUnreadable: it cannot be reached, or has Letta's tables in several schemas.
    """

    embedding = "CAST(p.embedding AS text)"
    after = "%(after)s"
    most = "%(most)s"

    def __init__(self, url: str, schema: str | None = None) -> None:
        conninfo = make_conninfo(url, connect_timeout=_CONNECT_TIMEOUT, client_encoding="utf8")
        try:
            # Nothing prepared, and settings for a transaction only: a pooler may stand between.
            self._connection = psycopg.connect(conninfo, autocommit=True, row_factory=dict_row, prepare_threshold=None)
        except psycopg.Error as error:
            raise SourceUnreadable(f"Letta's database cannot be reached ({str(error).strip()})") from error
        try:
            self._begin = self._beginning()
            self._schema = schema or self._only_schema()
            self._begin += f'; SET LOCAL search_path TO "{self._schema}", public'
        except SourceUnreadable:
            self.close()
            raise

    def tables(self) -> set[str]:
        """See the port, as for all of these."""
        statement = "SELECT table_name FROM information_schema.tables WHERE table_schema = %(schema)s"
        return {row["table_name"] for row in self.rows(statement, {"schema": self._schema})}

    def rows(self, statement: str, params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        try:
            self._connection.execute(self._begin.encode())
            try:
                return self._connection.execute(statement.encode(), params or None).fetchall()
            finally:
                self._connection.execute(b"ROLLBACK")
        except psycopg.Error as error:
            raise SourceUnreadable(f"Letta's database cannot be read ({str(error).strip()})") from error

    def close(self) -> None:
        self._connection.close()

    def _beginning(self) -> str:
        """What each transaction begins with, in one message."""
        try:
            row = self._connection.execute(b"SELECT version() AS version").fetchone()
            dialect = recognise(str(row["version"]) if row else "")
        except (psycopg.Error, UnfitDatabase) as error:
            raise SourceUnreadable(f"Letta's database cannot be read ({error})") from error
        settings = {name: literal(value) for name, value in dialect.session_settings.items()}
        return f"{for_transaction(settings)}; SET LOCAL transaction_read_only TO on"

    def _only_schema(self) -> str:
        schemas = [str(row["table_schema"]) for row in self.rows(_SCHEMAS, {})]
        if len(schemas) != 1:
            found = f"in several schemas ({', '.join(schemas)})" if schemas else "nowhere"
            raise SourceUnreadable(f"Letta's tables are {found} in this database; name theirs with --schema")
        return schemas[0]

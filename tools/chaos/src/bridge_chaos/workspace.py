"""Resources that outlive a stack: a directory, and one PostgreSQL."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import sql

from local_stack.ports import HOST
from local_stack.postgres import Postgres

_OWNER: Final = "chaos"
"""The bridges' role in PostgreSQL, and its password."""


class Workspace:
    """A directory for data and logs, and a PostgreSQL server with a database for each environment.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres", durable=False)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.postgres.start()
        self.postgres.wait_ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.postgres.kill()

    def number(self) -> int:
        """A number that has not been used before."""
        return next(self._numbers)

    def new_database(self, name: str) -> str:
        """Create a database owned by an ordinary role, to which limits apply; returns its URL for that role."""
        self.postgres.drop_database(name)
        self.postgres.create_database(name)
        owner = sql.Identifier(_OWNER)
        with psycopg.connect(self.postgres.url(name), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_OWNER,)).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(owner, sql.Literal(_OWNER)))
            connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), owner))
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        return f"postgresql://{_OWNER}:{_OWNER}@{HOST}:{self.postgres.port}/{name}"

"""PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from shared_utils.persistence.errors import UnfitDatabase


@dataclass(frozen=True, slots=True)
class PostgreSQL:
    """PostgreSQL 15 or newer."""

    version: tuple[int, ...]

    @property
    def product(self) -> str:
        """See :class:`Dialect`."""
        return f"PostgreSQL {'.'.join(map(str, self.version))}"

    @property
    def session_settings(self) -> Sequence[str]:
        """See :class:`Dialect`."""
        return ()

    @property
    def or_ignore(self) -> str:
        """See :class:`Dialect`."""
        return "ON CONFLICT DO NOTHING"

    @property
    def vectors(self) -> str | None:
        """See :class:`Dialect`."""
        return "extension"

    def create_database(self, name: str) -> sql.Composed:
        """See :class:`Dialect`."""
        # template0: nobody is connected to it, and the encoding is ours to say.
        return sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(sql.Identifier(name))

    def mode_refusal(self, compatibility: str | None, empty_is_null: bool, database: str) -> UnfitDatabase | None:
        """See :class:`Dialect`."""
        del compatibility, empty_is_null, database  # PostgreSQL has one mode
        return None

"""PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from shared_utils.persistence.dialects.session_settings import LIMITS, RELIED_ON
from shared_utils.persistence.errors import UnfitDatabase

_FIRST_TRANSACTION_TIMEOUT: Final = (17,)


@dataclass(frozen=True, slots=True)
class PostgreSQL:
    """PostgreSQL 15 or newer."""

    version: tuple[int, ...]

    @property
    def product(self) -> str:
        """See :class:`Dialect`."""
        return f"PostgreSQL {'.'.join(map(str, self.version))}"

    @property
    def session_settings(self) -> Mapping[str, str]:
        """See :class:`Dialect`."""
        limits = [*LIMITS, "lock_timeout", "idle_session_timeout"]
        if self.version >= _FIRST_TRANSACTION_TIMEOUT:
            limits.append("transaction_timeout")
        return {**RELIED_ON, **dict.fromkeys(limits, "0")}

    @property
    def pooler_question(self) -> str:
        """See :class:`Dialect`."""
        return "SELECT pg_backend_pid()"

    def is_pooled(self, answer: int | None, connection: psycopg.BaseConnection[Any]) -> bool:
        """See :class:`Dialect`. A pooler gives its clients cancel keys of its own, which name no process."""
        return connection.info.backend_pid != answer

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

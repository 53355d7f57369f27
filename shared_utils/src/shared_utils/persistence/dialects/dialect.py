"""What a dialect answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import psycopg
from psycopg import sql

from shared_utils.persistence.errors import UnfitDatabase


class Dialect(Protocol):
    """One server product at one version."""

    @property
    def product(self) -> str:
        """As people call it, with its version: ``PostgreSQL 16.14``."""
        ...

    @property
    def version(self) -> tuple[int, ...]:
        """``(16, 14)``, ``(6, 0, 2)``."""
        ...

    @property
    def session_settings(self) -> Mapping[str, str]:
        """Setting → value that statements rely on; see :mod:`.session_settings`."""
        ...

    @property
    def pooler_question(self) -> str:
        """A statement whose one value :meth:`is_pooled` compares with what the client knows of its connection."""
        ...

    def is_pooled(self, answer: int | None, connection: psycopg.BaseConnection[Any]) -> bool:
        """Whether a pooler may stand between the connection and the server; True in doubt.

        Args:
            answer: the value of ``pooler_question``.
            connection: on which it was asked.
        """
        ...

    @property
    def or_ignore(self) -> str:
        """Ends an INSERT that shall do nothing where a unique key is taken already."""
        ...

    @property
    def vectors(self) -> str | None:
        """``extension``: pgvector has to be created; ``builtin``: the type is there; None: there is no vector type."""
        ...

    def create_database(self, name: str) -> sql.Composed:
        """A statement that makes a database this project can use; not inside a transaction."""
        ...

    def mode_refusal(self, compatibility: str | None, empty_is_null: bool, database: str) -> UnfitDatabase | None:
        """Why a database of this kind cannot be used; None where it can.

        Args:
            compatibility: what ``SHOW sql_compatibility`` says; None where the server has no such setting.
            empty_is_null: what ``SELECT '' IS NULL`` says.
            database: its name.
        """
        ...

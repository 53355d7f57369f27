"""openGauss."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from shared_utils.persistence.dialects.session_settings import LIMITS, RELIED_ON
from shared_utils.persistence.errors import UnfitDatabase

_FIRST_VECTORS: Final = (6, 0, 2)


@dataclass(frozen=True, slots=True)
class OpenGauss:
    """openGauss 5.0 or newer, single node."""

    version: tuple[int, ...]

    @property
    def product(self) -> str:
        """See :class:`Dialect`."""
        return f"openGauss {'.'.join(map(str, self.version))}"

    @property
    def session_settings(self) -> Mapping[str, str]:
        """See :class:`Dialect`."""
        # By default it cuts sessions that are idle for ten minutes.
        limits = (*LIMITS, "session_timeout")
        return {**RELIED_ON, **dict.fromkeys(limits, "0"), "behavior_compat_options": ""}

    @property
    def pooler_question(self) -> str:
        """See :class:`Dialect`."""
        return "SELECT inet_client_port()"

    def is_pooled(self, answer: int | None, connection: psycopg.BaseConnection[Any]) -> bool:
        """See :class:`Dialect`. Its cancel keys never name the process, so the client's port has to tell."""
        with socket.socket(fileno=os.dup(connection.fileno())) as end:
            if end.family not in {socket.AF_INET, socket.AF_INET6}:
                return True
            return bool(end.getsockname()[1] != answer)

    @property
    def or_ignore(self) -> str:
        """See :class:`Dialect`."""
        return "ON DUPLICATE KEY UPDATE NOTHING"

    @property
    def vectors(self) -> str | None:
        """See :class:`Dialect`."""
        return "builtin" if self.version >= _FIRST_VECTORS else None

    def create_database(self, name: str) -> sql.Composed:
        """See :class:`Dialect`."""
        statement = sql.SQL("CREATE DATABASE {} DBCOMPATIBILITY 'PG' ENCODING 'UTF8' TEMPLATE template0")
        return statement.format(sql.Identifier(name))

    def mode_refusal(self, compatibility: str | None, empty_is_null: bool, database: str) -> UnfitDatabase | None:
        """See :class:`Dialect`."""
        if compatibility == "PG" and not empty_is_null:
            return None
        loss = "it stores an empty text as NULL, so text would be lost" if empty_is_null else "its SQL differs"
        statement = self.create_database(f"{database}_pg").as_string()
        return UnfitDatabase(
            f"the openGauss database {database} is in compatibility mode {compatibility or 'unknown'} ({loss}); create "
            f"one in mode PG and use that: {statement}"
        )

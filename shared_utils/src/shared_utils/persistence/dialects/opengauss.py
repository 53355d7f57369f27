"""openGauss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

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
    def session_settings(self) -> Sequence[str]:
        """See :class:`Dialect`."""
        # It cuts sessions idle for ten minutes, and prints floats with too few digits to read them back.
        return ("SET session_timeout = 0", "SET extra_float_digits = 3")

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
        loss = "an empty text is NULL there, so text would be lost" if empty_is_null else "its SQL differs"
        statement = self.create_database(f"{database}_pg").as_string()
        return UnfitDatabase(
            f"the openGauss database {database} is in compatibility mode {compatibility or 'unknown'} ({loss}); make "
            f"one in mode PG and name that: {statement}"
        )

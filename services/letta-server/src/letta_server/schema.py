"""Letta's schema as statements: what its own models say, completed by what only its migrations do.

Importing Letta's models takes seconds; call this only when a database is to be filled. The environment must be
Letta's already (``letta_environment``): without a PostgreSQL URI in it, the models come out for SQLite.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

HEAD: Final = "1c28e167b74f"
"""The last of the 167 revisions that Letta 0.16.8 came with; what ``alembic_version`` holds when the schema is its."""


def statements() -> list[str]:
    """All DDL, in order, one statement each."""
    # Letta and SQLAlchemy are absent from the workspace's environment, where the unit tests run.
    from letta.orm import Base  # noqa: PLC0415
    from sqlalchemy import create_mock_engine  # noqa: PLC0415

    made: list[str] = []

    def collect(statement: Any, *_: object, **__: object) -> None:
        made.append(str(statement.compile(dialect=engine.dialect)).strip())

    engine = create_mock_engine("postgresql+psycopg://", collect)
    Base.metadata.create_all(engine, checkfirst=False)
    return [*made, *_completion()]


def _completion() -> list[str]:
    text = resources.files("letta_server").joinpath("completion.sql").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]

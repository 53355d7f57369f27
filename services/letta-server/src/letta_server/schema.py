"""Letta's schema as statements: what its own models say, completed by what only its migrations do.

Importing Letta's models takes seconds; call this only when a database is to be filled. The environment must be
Letta's already (``letta_environment``): without a PostgreSQL URI in it, the models come out for SQLite.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from shared_utils.persistence.dialects import Dialect, OpenGauss

HEAD: Final = "1c28e167b74f"
"""The last of the 167 revisions that Letta 0.16.8 came with; what ``alembic_version`` holds when the schema is its."""


def statements(dialect: Dialect) -> list[str]:
    """All DDL for this server, in order, one statement each."""
    from letta_server.logs import import_without_handlers  # noqa: PLC0415 - imports structlog

    import_without_handlers()
    # Letta and SQLAlchemy are absent from the workspace's environment, where the unit tests run.
    from letta.orm import Base  # noqa: PLC0415
    from sqlalchemy import create_mock_engine  # noqa: PLC0415

    from letta_server import hooks  # noqa: PLC0415 - imports SQLAlchemy

    hooks.install(dialect)
    made: list[str] = []

    def collect(statement: Any, *_: object, **__: object) -> None:
        made.append(str(statement.compile(dialect=engine.dialect)).strip())

    engine = create_mock_engine("postgresql+psycopg://", collect)
    Base.metadata.create_all(engine, checkfirst=False)
    helpers = _script("opengauss.sql") if isinstance(dialect, OpenGauss) else []
    return [*helpers, *made, *_script("completion.sql")]


def _script(name: str) -> list[str]:
    text = resources.files("letta_server").joinpath(name).read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]

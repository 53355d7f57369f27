"""Without this hook an idle connection is cut, floats lose digits, and tables are looked for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from letta_server.hooks import session_settings, version
from local_stack.databases import bouncing

pytestmark = pytest.mark.integration

SETTINGS = {"session_timeout": "0", "extra_float_digits": "3", "search_path": '"$user", public'}


@pytest.mark.parametrize(
    ("installed", "timeout", "printed"), [(False, "10min", "0.3"), (True, "0", "0.30000000000000004")]
)
def test_a_new_connection_has_the_session_settings(
    opengauss: Any, engine_on: Any, dialect: Any, installed: bool, timeout: str, printed: str
) -> None:
    version.install(dialect(7, 0, 0))
    if installed:
        session_settings.install(SETTINGS, pooled=False)
    with engine_on(opengauss("7.0")).connect() as connection:
        # What was set must survive the rollback with which the pool takes a connection back.
        connection.rollback()
        assert connection.execute(text("SHOW session_timeout")).scalar() == timeout
        assert connection.execute(text("SELECT (0.1::float8 + 0.2::float8)::text")).scalar() == printed


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_behind_a_pooler_every_transaction_has_them_and_leaves_none(
    postgres_url: str, tmp_path: Path, mode: Any
) -> None:
    wanted = {"search_path": "pg_catalog, public", "extra_float_digits": "3", "idle_session_timeout": "0"}
    session_settings.install(wanted, pooled=True)
    with bouncing(postgres_url, tmp_path / "pgbouncer", mode, default_pool_size="1") as pooler:
        engine = sqlalchemy.create_engine(pooler.url().replace("postgresql://", "postgresql+psycopg://"))
        for _ in range(3):
            with engine.connect() as connection:
                assert connection.execute(text("SHOW search_path")).scalar() == "pg_catalog, public"
                connection.commit()
                assert connection.execute(text("SHOW extra_float_digits")).scalar() == "3"
        bare = engine.raw_connection()
        cursor = bare.cursor()
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ('"$user", public',)
        bare.close()
        engine.dispose()

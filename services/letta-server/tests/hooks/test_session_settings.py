"""Without this hook an idle connection is cut, and floats lose digits on their way out."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from letta_server.hooks import session_settings, version

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("installed", "timeout", "printed"), [(False, "10min", "0.3"), (True, "0", "0.30000000000000004")]
)
def test_a_new_connection(
    opengauss: Any, engine_on: Any, dialect: Any, installed: bool, timeout: str, printed: str
) -> None:
    version.install(dialect(7, 0, 0))
    if installed:
        session_settings.install(dialect(7, 0, 0))
    with engine_on(opengauss("7.0")).connect() as connection:
        # What was set must survive the rollback with which the pool takes a connection back.
        connection.rollback()
        assert connection.execute(text("SHOW session_timeout")).scalar() == timeout
        assert connection.execute(text("SELECT (0.1::float8 + 0.2::float8)::text")).scalar() == printed

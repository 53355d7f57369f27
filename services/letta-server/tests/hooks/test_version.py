"""Without this hook SQLAlchemy does not get past its first connection."""

from __future__ import annotations

from typing import Any

import pytest

from letta_server.hooks import version

pytestmark = pytest.mark.integration


def test_an_engine_connects_with_the_version_hook_alone(opengauss: Any, engine_on: Any, dialect: Any) -> None:
    database = opengauss("7.0")
    with pytest.raises(AssertionError, match="Could not determine version"):
        engine_on(database).connect()
    version.install(dialect(7, 0, 0))
    with engine_on(database).connect() as connection:
        assert connection.dialect.server_version_info == (9, 2, 4)

from __future__ import annotations

import pytest
from sqlalchemy.dialects.postgresql.base import PGDialect

from letta_server import hooks
from shared_utils.persistence.dialects import PostgreSQL


def test_postgresql_gets_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PGDialect._get_server_version_info
    hooks.install(PostgreSQL((16, 14)))
    assert PGDialect._get_server_version_info is before

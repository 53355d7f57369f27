"""Fixes the session settings that Letta's statements rely on, whatever an operator set for server or role.

Behind a pooler the next transaction may run in another session, which other programs use too: there each transaction
begins with the settings, and leaves none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, event

from shared_utils.persistence.dialects.session_settings import OF_SESSIONS, literal


def install(settings: Mapping[str, str], *, pooled: bool) -> None:
    """Listen to every engine made from now on.

    Args:
        settings: name → value.
        pooled: a pooler stands between, or may.
    """
    if pooled:
        _install_for_transactions(settings)
    else:
        _install_for_sessions(settings)


def _install_for_sessions(settings: Mapping[str, str]) -> None:
    statement = _statement(settings, local=False)

    def begin(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        # The driver has opened a transaction, and a rollback would take the settings back.
        connection.commit()

    event.listen(Engine, "connect", begin)


def _install_for_transactions(settings: Mapping[str, str]) -> None:
    statement = _statement({name: settings[name] for name in settings if name not in OF_SESSIONS}, local=True)

    def isolate(connection: Any, _record: Any) -> None:
        if hasattr(connection, "run_async"):  # asyncpg's, which names the level in its BEGIN
            connection.set_isolation_level("read_committed")

    def begin(connection: Any) -> None:
        connection.exec_driver_sql(statement)

    event.listen(Engine, "connect", isolate)
    event.listen(Engine, "begin", begin)


def _statement(settings: Mapping[str, str], *, local: bool) -> str:
    """One statement, because the driver prepares it."""
    calls = (f"set_config('{name}', {literal(value)}, {str(local).lower()})" for name, value in settings.items())
    return f"SELECT {', '.join(calls)}"

"""What every new connection of Letta's pool begins with: the project's settings for an openGauss session."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

from shared_utils.persistence.dialects import OpenGauss


def install(dialect: OpenGauss) -> None:
    """Listen to every engine made from now on."""

    def begin(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in dialect.session_settings:
            cursor.execute(statement)
        cursor.close()
        # The driver has opened a transaction, and a rollback would take the settings back.
        connection.commit()

    event.listen(Engine, "connect", begin)

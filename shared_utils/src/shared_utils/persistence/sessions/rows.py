"""Sessions as rows of the session file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from shared_utils.persistence.session_file.tables import time_text
from shared_utils.persistence.sessions.port import Restoration, Session, SessionStoreError
from shared_utils.persistence.sessions.values import encoded

_TIME_COLUMNS: Final = ("created_at", "last_updated", "expires_at")
"""Only the last may be NULL; the table sees to that."""
_JSON_COLUMNS: Final = ("session_data", "metadata")


def row_of(session: Session) -> dict[str, Any]:
    """Column → value."""
    return {name: getattr(session, name) for name in Session.__dataclass_fields__} | {
        "session_data": encoded(session.session_data),
        "metadata": encoded(session.metadata),
        "is_active": int(session.is_active),
        **{name: time and time_text(time) for name in _TIME_COLUMNS for time in [getattr(session, name)]},
    }


def session_of(row: Mapping[str, Any] | sqlite3.Row) -> Session:
    """The session in a row.

    Raises:
        SessionStoreError: something in it cannot be read; the session is named.
    """
    values = {name: row[name] for name in Session.__dataclass_fields__}
    try:
        for name in _TIME_COLUMNS:
            values[name] = _time(row[name])
        for name in _JSON_COLUMNS:
            values[name] = _object(row[name])
    except (ValueError, TypeError) as error:
        raise SessionStoreError(
            f"session {row['session_id']} in the session file cannot be read ({error}); correct or delete that row"
        ) from error
    values["is_active"] = bool(values["is_active"])
    return Session(**values)


def readable(rows: Iterable[sqlite3.Row]) -> Restoration:
    """The sessions in ``rows``, and those that cannot be read."""
    sessions, failed = [], {}
    for row in rows:
        try:
            sessions.append(session_of(row))
        except SessionStoreError as error:
            failed[str(row["session_id"])] = str(error)
    return Restoration(sessions, failed)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _object(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  # of the text, not of the argument
    return values

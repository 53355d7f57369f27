"""What an operator reads of a database that cannot be used."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from shared_utils.persistence.database.error_mapping import translate
from shared_utils.persistence.errors import DatabaseUnavailable

_REFUSED = 'connection to server at "127.0.0.1", port 1 failed: Connection refused'
_NO_NAME = "could not translate host name to address: Name or service not known"


@pytest.mark.parametrize(
    ("error", "says", "advice"),
    [
        (
            psycopg.OperationalError(_REFUSED),
            "no program listens there",
            "start it, or correct host and port in DATABASE",
        ),
        (psycopg.OperationalError(_NO_NAME), "its name cannot be resolved", "correct the host in DATABASE_URL"),
        (psycopg.OperationalError("server closed"), "server closed", "start it, or correct"),
        (
            errors.DiskFull("could not extend file: No space left on device"),
            "the disk of the database",
            "free disk space",
        ),
    ],
)
def test_unavailable_database_error_gives_reason_and_remedy(error: psycopg.Error, says: str, advice: str) -> None:
    meant = translate(error, place="bridge on db:5432", user="ada")
    assert isinstance(meant, DatabaseUnavailable)
    wrong, _, then = str(meant).partition("; ")
    assert says in wrong
    assert then.startswith(advice)
    assert then.endswith("it is tried again")

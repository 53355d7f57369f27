"""What is sent to a database before any named statement: captured, and compared with what docs/sql.md says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from types import FunctionType
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from local_stack.databases import _sent_by_a_test
from local_stack.programs import CHECKOUT
from shared_utils.persistence.catalogue import PRELIMINARIES, known
from shared_utils.persistence.catalogue.preliminaries import every_connection
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.migration import migrate, migrations

pytestmark = pytest.mark.integration
_numbers = count(1)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything that goes through a psycopg cursor, white space and names made those of the page."""
    found = []
    execute = psycopg.AsyncCursor.execute

    async def listening(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        text = query.as_string() if isinstance(query, sql.Composable) else query
        found.append(text.decode() if isinstance(text, bytes) else text)
        return await execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", listening)
    return found


@pytest.fixture
def absent(engine_url: str) -> Iterator[Any]:
    """The configuration of a database that is not there yet, and a role, both removed afterwards."""
    name = f"absent_{next(_numbers)}"
    with psycopg.connect(engine_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name}")
        yield name, DatabaseConfig.model_validate({"db_url": _url(engine_url, name)})
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"DROP ROLE {name}")


def _url(url: Any, name: Any) -> Any:
    parts = conninfo_to_dict(url)
    return re.sub(rf"/{re.escape(str(parts['dbname']))}(\?|$)", rf"/{name}\1", url)


@pytest.fixture
def listed(engine: str) -> Any:
    """What the page says, of this product."""
    product = "PostgreSQL" if engine == "postgresql" else "openGauss"
    texts = {" ".join(text.split()) for texts in PRELIMINARIES.values() for text in texts}
    own = {text for text in texts if "CREATE DATABASE" not in text or ("DBCOMP" in text) is (product == "openGauss")}
    own -= {"SHOW sql_compatibility"} if product == "PostgreSQL" else set()
    steps = {" ".join(migration.text.split()) for migration in migrations()}
    return {text.replace('"letta"', '"bridge"') for text in own} | steps | set(every_connection()[product])


def flat(texts: Any, name: str) -> Any:
    return {" ".join(text.replace(f'"{name}"', '"bridge"').split()) for text in texts} - {""}


@pytest.mark.parametrize("engine", ["postgresql", "opengauss-6.0"], indirect=True)
async def test_statements_at_connect_match_the_documented_ones(absent: Any, listed: Any, sent: list[Any]) -> None:
    name, config = absent
    await migrate(config, grant=name)
    database = Database(config)
    assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]
    await database.close()
    found = flat(sent, name) - {"SELECT 1 AS one"}
    assert (sorted(found - listed), sorted(listed - found)) == ([], []), "sent and not listed, listed and not sent"


def _ask() -> bool:
    return _sent_by_a_test()


def test_a_statement_of_a_test_is_the_tests_own() -> None:
    assert _ask()
    in_the_project = str(CHECKOUT / "shared_utils" / "src" / "shared_utils" / "module.py")
    assert not FunctionType(_ask.__code__.replace(co_filename=in_the_project), globals())()
    assert not known("SELECT 1 AS one")

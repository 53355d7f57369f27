"""docs/sql.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from shared_utils.persistence.catalogue.known import OR_IGNORE, TABLES, conditions, fixed, named
from shared_utils.persistence.catalogue.preliminaries import PRELIMINARIES, every_connection, every_transaction
from shared_utils.persistence.database.migration import migrations
from shared_utils.persistence.repositories.table import Table

_INTRODUCTION: Final = """\
# Every SQL statement

What the services send to PostgreSQL or openGauss, to be checked against a server. This page is made by
`./run generate`, and printed by `python -m shared_utils.persistence.catalogue` where there is no checkout. A test
compares it with the code, and every statement that a test on a database sees sent has to be on it. What differs between
servers, and what is avoided, stands in [opengauss.md](opengauss.md). The Letta server sends its own SQL, which is not
listed.

`%(name)s` and `%s` are parameters: psycopg sends `$1`, `$2` … and the values apart from the text, with the extended
protocol. Schema, time-outs, database and role are those of the default configuration.
"""
_DRIVER: Final = """\
## Sent by the driver

| when | statement |
|---|---|
| around a piece of work of several statements | `BEGIN ISOLATION LEVEL READ COMMITTED`, or `REPEATABLE READ` where \
all shall see one state; then `COMMIT` or `ROLLBACK` |
| around a part of it that may fail | `SAVEPOINT "_pg3_1"`; after a failure `ROLLBACK TO "_pg3_1"`; `RELEASE "_pg3_1"` |
| with the first, where it has a time limit of its own | `SET LOCAL statement_timeout TO 10000` |
| before a connection that was idle is used | an empty statement |
| for a statement that came up five times, unless behind a pooler | Parse with a name; later Close, or `DEALLOCATE` |
"""


def render() -> str:
    """The page."""
    return "\n".join(_sections())


def _sections() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## On arrival\n"
    for when, statements in PRELIMINARIES.items():
        yield f"### {when}\n"
        yield _block(statements)
    yield "## Every connection begins with\n"
    for product, statements in every_connection().items():
        yield f"### {product}\n"
        yield _block(statements)
    yield "## Behind a pooler every piece of work begins with\n"
    for product, statement in every_transaction().items():
        yield f"### {product}\n"
        yield _block([statement])
    yield _DRIVER
    yield "## Statements by name\n"
    gaps = ", ".join(f"on {product} `{text}`" for product, text in OR_IGNORE.items())
    yield f"`{{schema}}` is the schema's name in quotation marks, `{{or_ignore}}` is {gaps}.\n"
    for file, texts in named().items():
        yield f"### {file}\n"
        yield _named(texts)
    yield "## Repositories\n"
    for table in TABLES:
        yield from _table(table)
    yield "## Migrations\n"
    for migration in migrations():
        yield f"### {migration.number:04}_{migration.name}.sql\n"
        yield f"```sql\n{migration.text.strip()}\n```\n"


def _table(table: Table[Any]) -> Iterator[str]:
    yield f"### {table.name}\n"
    yield _named(fixed(table))
    yield (
        "`filter` and `count` put one or several of these between `WHERE`, `AND` and `ORDER BY`; a page that is not "
        "the first has one that names `after_…`:\n"
    )
    yield _block(conditions(table), end="")


def _named(texts: Mapping[str, str]) -> str:
    return "```sql\n" + "\n\n".join(f"-- {name}\n{text};" for name, text in texts.items()) + "\n```\n"


def _block(texts: Iterable[str], end: str = ";") -> str:
    return "```sql\n" + "\n".join(f"{text}{end}" for text in texts) + "\n```\n"

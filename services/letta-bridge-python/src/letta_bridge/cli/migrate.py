"""``letta-bridge migrate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, progress_told, settings_or_exit
from letta_bridge.cli.output import print_json
from letta_bridge.cli.state import ask, require_database
from shared_utils.persistence.database import migration
from shared_utils.persistence.database.migration import Migration
from shared_utils.persistence.table_copy import absent_vector_tables, mend_vector_tables
from shared_utils.persistence.vectors import vector_database


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing; exit code 1 where something is.")
    ] = False,
    grant: Annotated[
        str | None, typer.Option(metavar="ROLE", help="Also let this role use the tables, without changing them.")
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make the database and its tables as this release needs them. What is there already stays as it is.

    Tables of vectors that are listed and missing, as a restore by an earlier release left them, are made anew, empty.

    A bridge does this itself at its start unless DB_GENERATE_SCHEMAS is false. Then run this before the new release
    starts, with DATABASE_URL naming a user that may make tables. Bridges of the release before may run meanwhile.
    """
    settings = settings_or_exit(config, may_create=not check)
    require_database(settings)
    if check and grant:
        fail("--check changes nothing, so --grant cannot go with it; run it once more without --check", Exit.USAGE)
    database = settings.database
    vectors = vector_database(settings.vectors, database)
    if check:
        missing = ask(lambda: migration.missing(database))
        absent = ask(lambda: absent_vector_tables(vectors))
        _tell(missing, absent, as_json=as_json, key="missing", place=database.place)
        raise typer.Exit(int(Exit.FAILED if missing or absent else Exit.DONE))
    with progress_told(
        lambda: "steps that were complete stay, and no other left anything; repeat the command to go on"
    ):
        applied = ask(lambda: migration.migrate(database, grant=grant))
        mended = ask(lambda: mend_vector_tables(vectors))
    _tell(applied, mended, as_json=as_json, key="applied", place=database.place)
    if grant and not as_json:
        typer.echo(f"{grant} may use the tables, and not change them")


def _tell(steps: Sequence[Migration], vectors: Sequence[str], *, as_json: bool, key: str, place: str) -> None:
    if as_json:
        content: dict[str, object] = {key: [{"number": step.number, "name": step.name} for step in steps]}
        print_json(content | ({f"vector_tables_{key}": [*vectors]} if vectors else {}))
        return
    for step in steps:
        typer.echo(f"{key}: {step.number:04} {step.name}")
    if vectors:
        did = "are listed and missing" if key == "missing" else "were listed and missing, and are made anew, empty"
        typer.echo(f"tables of vectors {did}: {', '.join(vectors)}; fill them: letta-bridge vectors sync")
    elif not steps:
        typer.echo(f"the database {place} has all tables this release needs")

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
        bool, typer.Option("--check", help="Only list what is missing; exit code 1 if anything is.")
    ] = False,
    grant: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", help="Also grant this role access to the tables' rows, but not to their definitions."
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Create the database and its tables, or upgrade them to this release. Existing data is kept.

    Missing tables of vectors, as a restore by an earlier release left them, are created, empty. A bridge migrates the
    database at its start unless DB_GENERATE_SCHEMAS is false. In that case run this command before the new release
    starts, with a DATABASE_URL whose user may create tables. Bridges of the previous release may run meanwhile.
    """
    settings = settings_or_exit(config, may_create=not check)
    require_database(settings)
    if check and grant:
        fail(
            "--check changes nothing, so it cannot be combined with --grant; run the command without --check",
            Exit.USAGE,
        )
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
        typer.echo(f"{grant} may read and write the tables' rows, but not alter the tables")


def _tell(steps: Sequence[Migration], vectors: Sequence[str], *, as_json: bool, key: str, place: str) -> None:
    if as_json:
        content: dict[str, object] = {key: [{"number": step.number, "name": step.name} for step in steps]}
        print_json(content | ({f"vector_tables_{key}": [*vectors]} if vectors else {}))
        return
    for step in steps:
        typer.echo(f"{key}: {step.number:04} {step.name}")
    if vectors:
        did = "are missing" if key == "missing" else "were missing and have been created, empty"
        typer.echo(f"tables of vectors {did}: {', '.join(vectors)}; fill them: letta-bridge vectors sync")
    elif not steps:
        typer.echo(f"the database {place} has all tables this release needs")

"""``letta-bridge vectors import``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from letta_bridge.agents.agent_spec import of_another_tenant
from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, progress_told, settings_or_exit
from letta_bridge.cli.output import print_json
from letta_bridge.cli.progress import counting
from letta_bridge.cli.vector_store import ask_store, embedding_model
from letta_bridge.vectors.embedding import Embedding
from letta_bridge.vectors.importing.importer import Imported, Importer
from letta_bridge.vectors.importing.letta_postgresql import LettaPostgresql
from letta_bridge.vectors.importing.letta_sqlite import LettaSqlite
from letta_bridge.vectors.importing.letta_tables import LettaDatabase, LettaPassages
from shared_utils.persistence.vectors import DatabasePassageStore
from shared_utils.persistence.vectors.memories import embedder_of
from shared_utils.text import counted

_SQLITE: Final = "sqlite:///"


def import_(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="URL",
            help="sqlite:///PATH of Letta 0.11 or earlier, or postgresql://… of any Letta release.",
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; only count.")] = False,
    embed: Annotated[
        bool, typer.Option("--embed", help="Embed passages of other models again; otherwise they are left out.")
    ] = False,
    schema: Annotated[str | None, typer.Option(help="Schema of Letta's tables, if there are several.")] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Dimensions of the vectors, if Letta's configuration is wrong.", min=1)
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Copy the passages of a Letta database with their embeddings; that database is only read.

    Passages already stored are skipped, so the command may be repeated. Afterwards it compares the counts, and the
    vectors of a sample of passages. Passages of agents whose tags name a user (as the bridge's do) are assigned to that
    user.
    """
    settings = settings_or_exit(config, may_create=not dry_run)

    async def work(store: DatabasePassageStore, count: Callable[[str, int], None]) -> Imported:
        database = _letta_database(source, schema)
        try:
            passages = LettaPassages(database)
            if not passages.found:
                fail("this database contains no passages of Letta", Exit.FAILED)
            async with embedding_model(settings) as configured:
                now = embedder_of(store, configured)
                embedder = await now()
                sync = settings.vectors.sync
                longest = settings.embeddings.max_characters
                embedding = Embedding(store, now, rate=sync.texts_per_second, batch=sync.batch, longest=longest)
                importer = Importer(
                    passages,
                    embedding,
                    embedder.model,
                    dimensions or await _stored_dimensions(store, embedder.model) or settings.embeddings.dimensions,
                    embed,
                    longest,
                    lambda number: count("passages", number),
                    lambda tags: of_another_tenant(settings.tenant.name, tags),
                    so_far,
                )
                return await importer.run(dry=dry_run)
        finally:
            database.close()

    so_far = Imported()
    with (
        progress_told(
            lambda: (
                f"{counted(so_far.stored + so_far.embedded, 'passage')} {'would be ' if dry_run else ''}stored, and "
                "perhaps a part of the next 500; repeat the command to go on"
            ),
            (lambda: asdict(so_far)) if as_json else None,
        ),
        counting("gone through") as count,
    ):
        done = ask_store(settings, lambda store: work(store, count))
    if as_json:
        print_json(asdict(done) | {"whole": done.whole})
    else:
        _tell_imported(done, dry=dry_run)
    raise typer.Exit(int(Exit.DONE if done.whole else Exit.FAILED))


def _tell_imported(done: Imported, *, dry: bool) -> None:
    will = "would be " if dry else ""
    typer.echo(f"{done.found} passages found, {done.there_already} already stored")
    typer.echo(f"{done.stored} {will}stored with their embeddings, {done.embedded} {will}embedded again")
    for reason, count in done.left_out.most_common():
        typer.echo(f"{count} left out: {reason}")
    if not dry:
        typer.echo(
            f"{done.missing} missing afterwards; {done.compared} vectors compared with the source, {done.different} "
            f"different"
        )


def _letta_database(source: str, schema: str | None) -> LettaDatabase:
    if source.startswith(_SQLITE):
        return LettaSqlite(Path(source.removeprefix(_SQLITE)))
    if not source.startswith(("postgresql://", "postgres://")):
        fail("--from takes sqlite:///PATH or postgresql://user:password@host:port/name", Exit.USAGE)
    return LettaPostgresql(source, schema)


async def _stored_dimensions(store: DatabasePassageStore, model: str) -> int | None:
    tables = (await store.statistics()).tables
    return next((table.dimensions for table in tables if table.model == model and table.state != "retired"), None)

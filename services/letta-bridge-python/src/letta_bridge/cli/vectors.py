"""``letta-bridge vectors prepare|sync|stats|search|reindex|reembed|import``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, progress_told, settings_or_exit
from letta_bridge.cli.output import cut, print_json, print_table
from letta_bridge.cli.own_agents import refuse_other_agents
from letta_bridge.cli.progress import counting
from letta_bridge.cli.vector_import import import_
from letta_bridge.cli.vector_store import ask_store, embedding_model
from shared_utils.persistence.vectors import DatabasePassageStore, Match, Progress, Scope, VectorStatistics
from shared_utils.persistence.vectors import reembed as reembed_all
from shared_utils.persistence.vectors.memories import embedder_of, user_scope
from shared_utils.text import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Vectors of turns and of agents' archival memory: memory-python recalls them while Letta is unavailable.",
)

_MAX_TEXT_COLUMNS: Final = 160
"""Characters of a text in a table."""

app.command(name="import")(import_)


@app.command()
def prepare(
    model: Annotated[str, typer.Argument(help="Name of the embedding model.")],
    dimensions: Annotated[int, typer.Argument(help="Dimensions of its vectors.", min=1)],
    *,
    config: ConfigOption = None,
) -> None:
    """Create the table for a model's vectors, if it does not exist.

    The first vector creates it, too, if the bridge's role may create tables. Otherwise run this command as the owner of
    the tables.
    """
    settings = settings_or_exit(config, may_create=True)
    ask_store(settings, lambda store: store.prepare(model, dimensions))
    typer.echo(f"the table for vectors of {model} with {dimensions} dimensions exists")


@app.command()
def sync(
    turns: Annotated[bool, typer.Option("--turns/--no-turns", help="Turns of the journal.")] = True,
    agents: Annotated[bool, typer.Option("--agents/--no-agents", help="All agents' archival memory.")] = True,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Synchronise all vectors now: embed texts without a vector, and remove vectors of deleted texts.

    Bridges do this themselves if vectors.enabled is on, and may run meanwhile. An interrupted command may be repeated:
    no text is embedded twice.
    """
    # It brings Letta's SDK, which takes a second.
    from letta_bridge.cli.vector_sync import Synchronised, synchronised  # noqa: PLC0415

    settings = settings_or_exit(config, may_create=True)
    if settings.database.db_url is None:
        fail("no database is configured; set DATABASE_URL", Exit.USAGE)
    refuse_other_agents(settings)
    done = Synchronised()

    def told() -> str:
        return f"{counted(done.stored, 'vector')} stored, {done.removed} removed"

    with (
        progress_told(lambda: f"{told()}; repeat the command to go on", (lambda: asdict(done)) if as_json else None),
        counting("gone through") as count,
    ):
        ask_store(settings, lambda store: synchronised(settings, store, count, done, turns=turns, agents=agents))
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(told())


@app.command()
def stats(*, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show passages, models, sizes and indexes."""
    found: VectorStatistics = ask_store(settings_or_exit(config), lambda store: store.statistics())
    if as_json:
        print_json(asdict(found) | {"dimensions": list(found.dimensions)})
        return
    columns = ("MODEL", "DIMENSIONS", "STATE", "KIND", "METRIC", "PASSAGES", "MB", "INDEX", "INDEX MB")
    rows = [
        (
            *(table.model, table.dimensions, table.state, table.kind, table.metric, table.passages),
            _megabytes(table.table_bytes),
            f"{table.index.state} ({table.index.precision})" if table.index.precision else table.index.state,
            _megabytes(table.index_bytes),
        )
        for table in found.tables
    ]
    print_table(columns, rows, numbers=("DIMENSIONS", "PASSAGES", "MB", "INDEX MB"))
    for note in dict.fromkeys(table.index.note for table in found.tables if table.index.note):
        typer.echo(note)
    typer.echo(f"{found.passages} passages")


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="The text to search for.")],
    user: Annotated[str | None, typer.Option(help="Only data of this user.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only vectors of this Letta agent.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Data of all users.")] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of matches.", min=1, max=1000)] = 10,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the passages nearest to a text, as memory-python would recall them."""
    settings = settings_or_exit(config)
    scope = _scope(user, agent, everybody=everybody)

    async def work(store: DatabasePassageStore) -> list[Match]:
        async with embedding_model(settings) as configured:
            embedder = await embedder_of(store, configured)()
            [vector] = await embedder.embed([text])
            return list(await store.search({embedder.model: vector}, scope, k=limit))

    matches = ask_store(settings, work)
    if as_json:
        print_json([_plain(match) for match in matches])
        return
    rows = [
        (
            f"{match.score:.3f}",
            match.passage.metadata.get("kind", "-"),
            str(match.passage.metadata.get("at", "-"))[:10],
            match.passage.source_id or match.passage.agent_id or "-",
            cut(match.passage.text or "", _MAX_TEXT_COLUMNS),
        )
        for match in matches
    ]
    print_table(("SCORE", "KIND", "DATE", "WHOSE", "TEXT"), rows, numbers=("SCORE",))


@app.command()
def reindex(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild indexes that exist.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Build the nearest-neighbour indexes while the tables are in use; may take minutes.

    A bridge builds the index of a table that has grown to vectors.index.above passages.
    """
    with progress_told(lambda: "an index that was not complete is not used; repeat the command to build it"):
        states = ask_store(settings_or_exit(config), lambda store: store.build_index(rebuild=rebuild))
    if as_json:
        print_json([asdict(state) for state in states])
        return
    for state in states:
        typer.echo(f"{state.state}{f', {state.precision} precision' if state.precision else ''}. {state.note}".strip())
    if not states:
        typer.echo("there are no vectors yet")


@app.command()
def reembed(
    drop: Annotated[bool, typer.Option("--drop", help="Drop the previous model's vectors afterwards.")] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Cancel an unfinished change: delete the new model's vectors.")
    ] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Embed everything again with the configured model, then switch to its vectors.

    Bridges and memory-python use the previous model until the command has finished, and then the new one, without a
    restart. An interrupted command continues when it is run again.
    """
    settings = settings_or_exit(config, may_create=True)

    async def work(store: DatabasePassageStore, count: Callable[[str, int], None]) -> dict[str, int]:
        if abandon:
            await store.abandon_reembedding()
            return {"embedded": 0}
        async with embedding_model(settings) as embedder:
            [probe] = await embedder.embed(["hello"])

            def report(progress: Progress) -> None:
                embedded.append(progress.done)
                count("passages", progress.done)

            done = await reembed_all(store, embedder, len(probe), batch=settings.vectors.sync.batch * 4, report=report)
        return {"embedded": done.done} | ({"tables_dropped": await store.drop_retired()} if drop else {})

    embedded = [0]
    with (
        progress_told(
            lambda: (
                f"{counted(embedded[-1], 'passage')} embedded; the previous model stays in use until all are, so "
                "repeat the "
                "command to go on"
            ),
            (lambda: {"embedded": embedded[-1]}) if as_json else None,
        ),
        counting("embedded") as count,
    ):
        done = ask_store(settings, lambda store: work(store, count))
    if as_json:
        print_json(done)
    elif abandon:
        typer.echo("the previous model stays in use")
    else:
        typer.echo(f"{done['embedded']} passages embedded; the model is now {settings.embeddings.model}")


def _scope(user: str | None, agent: str | None, *, everybody: bool) -> Scope:
    if [user is not None, agent is not None, everybody].count(True) != 1:
        fail("name the owner: --user, --agent or --all", Exit.USAGE)
    if user is not None:
        return user_scope(user)
    return Scope.everything() if agent is None else Scope.agent(agent)


def _plain(match: Match) -> dict[str, Any]:
    passage = match.passage
    return {
        "score": match.score,
        "passage_id": passage.passage_id,
        "text": passage.text,
        "agent_id": passage.agent_id,
        "source_id": passage.source_id,
        "metadata": dict(passage.metadata),
    }


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:.1f}"

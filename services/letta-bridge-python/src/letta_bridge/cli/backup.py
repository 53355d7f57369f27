"""``letta-bridge backup`` and ``letta-bridge restore``."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from letta_bridge.backup.backup import make_backup
from letta_bridge.backup.records import Manifest
from letta_bridge.backup.restore import RestoreReport, restore_backup
from letta_bridge.cli.backup_output import backup_lines, restore_json, restore_lines
from letta_bridge.cli.common import (
    ConfigOption,
    Exit,
    JsonOption,
    check_directory,
    fail,
    progress_told,
    redis_client,
    settings_or_exit,
    tell,
)
from letta_bridge.cli.config import effective
from letta_bridge.cli.interruption import run_command
from letta_bridge.cli.output import print_json
from letta_bridge.cli.own_agents import refuse_other_agents
from letta_bridge.cli.progress import counting
from letta_bridge.consent import RedisChoices
from letta_bridge.letta.agent_store import AgentStore
from letta_bridge.letta.factory import agent_store, letta_client
from letta_bridge.request_queue import QueueStatus, RedisQueue
from letta_bridge.request_queue.creation_leases import RedisCreationLeases
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import ServiceError
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import explain

AgentsOption = Annotated[
    bool,
    typer.Option(
        "--agents/--no-agents", help="Also save the agents from Letta; not needed if you back up Letta's own database."
    ),
]
_PATIENCE_SECONDS: Final = 5.0
"""How long a backup without agents waits for Letta's answer about the owner of the agents."""
_Result = TypeVar("_Result")


def backup(
    folder: Annotated[Path, typer.Argument(help="Directory to write to; must be empty or not exist yet.")],
    agents: AgentsOption = True,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="Also save the values of agents' variables, which may be secret.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", hidden=True)] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Save the database (or session file), a snapshot of every agent, and the settings, with a manifest.

    Bridges may run meanwhile. Only the owner can read the backup. The bridge's settings are saved without secrets.
    Redis is not saved, because it holds work in progress and has its own append-only file; the manifest says how much
    work there was. Exit code 1: an agent could not be read.
    """
    check_directory(folder)
    del plain  # of earlier releases: every backup is COPY text now, which fits both database products
    settings = settings_or_exit(config)
    refuse_other_agents(settings, patience=None if agents else _PATIENCE_SECONDS)

    async def work(store: AgentStore | None, count: Callable[[str, int], None]) -> Manifest:
        not_saved = await _in_redis(settings)
        async with redis_client(settings) as client:
            return await make_backup(
                settings,
                store,
                folder,
                configuration=dict(effective(settings)),
                not_saved=not_saved,
                ledger=RedisErasureLedger(client, Keys(settings.queue.requests)),
                secrets=secrets,
                progress=count,
            )

    with progress_told(lambda: f"the backup in {folder} is not complete and cannot be restored; remove it"):
        made = _with_letta(settings, agents, "saved", work)
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        for line in backup_lines(folder, made):
            typer.echo(line)
    raise typer.Exit(int(Exit.FAILED if any(not skipped.harmless for skipped in made.skipped) else Exit.DONE))


def restore(
    folder: Annotated[Path, typer.Argument(help="A backup's directory.")],
    agents: AgentsOption = True,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Restore a backup into an empty database or data directory, and compare the result with the backup, item by item.

    The command first compares checksums and refuses files that the manifest does not name. It restores the agents one
    by one, then the state in one transaction; after a crash, repeat the command. It does not change agents of users who
    already have one in Letta, and leaves out users who were erased after the backup began. It does not apply the saved
    settings: compare config.json. Exit code 1: the result differs from the backup.
    """
    check_directory(folder, needed_as="a backup")
    settings = settings_or_exit(config, may_create=True)
    refuse_other_agents(settings)

    async def work(store: AgentStore | None, count: Callable[[str, int], None]) -> RestoreReport:
        await _warn_of_running_bridges(settings)
        async with redis_client(settings) as client:
            keys = Keys(settings.queue.requests)
            ledger, leases = RedisErasureLedger(client, keys), RedisCreationLeases(client, keys)
            report = await restore_backup(settings, store, folder, ledger=ledger, leases=leases, progress=count)
        await _have_choices_read(settings)
        return report

    with progress_told(lambda: "what was restored stays, and the restore is not complete; repeat the command to go on"):
        report = _with_letta(settings, agents, "restored", work)
    if as_json:
        print_json(restore_json(report))
    else:
        for line in restore_lines(report):
            typer.echo(line)
    raise typer.Exit(int(Exit.DONE if report.whole else Exit.FAILED))


def _with_letta(
    settings: BridgeSettings,
    agents: bool,
    did: str,
    work: Callable[[AgentStore | None, Callable[[str, int], None]], Awaitable[_Result]],
) -> _Result:
    async def run() -> _Result:
        letta = letta_client(settings.letta)
        store = agent_store(letta)
        try:
            with counting(did) as count:
                return await work(store if agents else None, count)
        finally:
            with contextlib.suppress(ServiceError):  # a later run deletes a reader that stays behind
                await store.close()
            await letta.close()

    try:
        return run_command(run())
    except ServiceError as error:
        fail(str(error), Exit.FAILED)


async def _in_redis(settings: BridgeSettings) -> Mapping[str, int | str]:
    """Data in Redis, which the backup does not contain: label → amount, or why it is unknown."""
    status = await _queue(settings)
    if isinstance(status, str):
        return {"redis": status}
    queue, unwritten = status
    return {
        "tasks waiting": queue.depth + queue.waiting,
        "tasks in flight": queue.in_flight,
        "missed turns that agents have not received yet": queue.counters.get("missed_pending", 0),
        "answered turns that are not in the database yet": unwritten,
        "dead letters": queue.dead,
    }


async def _warn_of_running_bridges(settings: BridgeSettings) -> None:
    status = await _queue(settings)
    if not isinstance(status, str) and status[0].bridges and status[0].paused is None:
        tell(
            f"{status[0].bridges} bridges are running: a user who sends a message during the restore gets a new "
            "agent, and then the saved agent is not restored; stop the bridges, or run letta-bridge pause"
        )


async def _have_choices_read(settings: BridgeSettings) -> None:
    """Have running bridges read the restored choices about permanent memory before they trust Redis again."""
    try:
        async with redis_client(settings) as client:
            await RedisChoices(client, Keys(settings.queue.requests)).begin_generation()
    except CONNECTION_ERRORS as error:
        tell(
            f"running bridges may not know the restored choices about permanent memory ({explain(error)}); restart them"
        )


async def _queue(settings: BridgeSettings) -> tuple[QueueStatus, int] | str:
    """The queue and the length of the journal's backlog; or why Redis cannot be asked."""
    try:
        async with redis_client(settings) as client:
            queue = await RedisQueue(client, client, settings.queue, "backup").status()
            return queue, await client.xlen(Keys(settings.queue.requests).journal)
    except CONNECTION_ERRORS as error:
        return explain(error)

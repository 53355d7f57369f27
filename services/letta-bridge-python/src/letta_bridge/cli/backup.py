"""``letta-bridge backup`` and ``letta-bridge restore``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from letta_bridge.backup.backup import make_backup, restore_backup
from letta_bridge.backup.manifest import Manifest
from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, settings_or_exit, tell
from letta_bridge.cli.config import effective
from letta_bridge.cli.output import print_json
from letta_bridge.letta.connection import letta_client
from letta_bridge.letta.port import LettaPort
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import ServiceError

AgentsOption = Annotated[
    bool,
    typer.Option(
        "--agents/--no-agents", help="Agent files out of Letta; leave them out if you save Letta's own database."
    ),
]
_Result = TypeVar("_Result")
_EVERY = 100


def backup(
    folder: Annotated[Path, typer.Argument(help="Directory to write to; empty, or not there yet.", file_okay=False)],
    agents: AgentsOption = True,
    plain: Annotated[
        bool, typer.Option("--plain", help="COPY text even where pg_dump is present: also fits the other database.")
    ] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Save database (or session file), agents and settings, with a manifest of checksums. Bridges may run meanwhile.

    Settings are saved without secrets. Redis is not saved: it holds work, not memory; its own AOF does that.
    """
    settings = settings_or_exit(config)

    async def work(letta: LettaPort | None) -> Manifest:
        configuration = dict(effective(settings))
        return await make_backup(
            settings, letta, folder, configuration=configuration, plain=plain, progress=_progress("saved")
        )

    made = _with_letta(settings, agents, work)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    typer.echo(f"{folder}: {len(made.parts)} files, {made.agents} agents, state by {made.method}")


def restore(
    folder: Annotated[Path, typer.Argument(help="A backup's directory.", exists=True, file_okay=False)],
    agents: AgentsOption = True,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring a backup back into an empty place: the checksums are compared first, then all of the state or nothing.

    Agents of users who have one in Letta are left alone. The saved settings are not put in force: compare config.json.
    """
    settings = settings_or_exit(config)

    async def work(letta: LettaPort | None) -> tuple[Manifest, int]:
        return await restore_backup(settings, letta, folder, progress=_progress("restored"))

    found, imported = _with_letta(settings, agents, work)
    if as_json:
        print_json({"manifest": found.model_dump(mode="json"), "agents_imported": imported})
        return
    typer.echo(f"state of {found.created_at:%Y-%m-%d %H:%M} UTC is back, {imported} agents imported")


def _with_letta(
    settings: BridgeSettings, agents: bool, work: Callable[[LettaPort | None], Awaitable[_Result]]
) -> _Result:
    async def run() -> _Result:
        letta = letta_client(settings.letta)
        try:
            return await work(letta if agents else None)
        finally:
            await letta.close()

    try:
        return asyncio.run(run())
    except ServiceError as error:
        fail(str(error), Exit.FAILED)


def _progress(did: str) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done % _EVERY == 0:
            tell(f"{done} agents {did}")

    return progress

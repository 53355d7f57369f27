"""Making a backup, and bringing one back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from letta_bridge import __version__
from letta_bridge.agent_spec import bridge_tag
from letta_bridge.backup import manifest
from letta_bridge.backup.agent_files import Progress, load_agents, save_agents
from letta_bridge.backup.manifest import Manifest
from letta_bridge.backup.state import load_state, save_state
from letta_bridge.letta.port import LettaPort
from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.files import write_json
from shared_utils.persistence.errors import Conflict
from shared_utils.persistence.sessions import utc_now


async def make_backup(
    settings: BridgeSettings,
    letta: LettaPort | None,
    folder: Path,
    *,
    configuration: Mapping[str, Any],
    plain: bool = False,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write all of it below ``folder``.

    State comes before agents: a user who appears in between has an agent without a session, which is found by its tags.

    Args:
        settings: the bridge's.
        letta: where the agents live; None leaves them out, for those who back up Letta's own database.
        folder: empty, or not there yet.
        configuration: what holds now, without secrets.
        plain: COPY text even where pg_dump is present.
        progress: is told how many agents are done.

    Raises:
        Conflict: there is something in the folder.
        ServiceError: database or Letta cannot be read.
    """
    await asyncio.to_thread(_make_empty, folder)
    method, rows = await save_state(settings, folder, plain=plain)
    agents = await save_agents(letta, bridge_tag(settings.tenant.name), folder / "agents", progress) if letta else 0
    write_json(folder / "config.json", configuration)
    made = Manifest(
        release=__version__,
        created_at=utc_now(),
        method=method,
        rows=dict(rows),
        agents=agents,
        parts=await asyncio.to_thread(manifest.parts_of, folder),
    )
    await asyncio.to_thread(manifest.write, folder, made)
    return made


async def restore_backup(
    settings: BridgeSettings, letta: LettaPort | None, folder: Path, *, progress: Progress = lambda _: None
) -> tuple[Manifest, int]:
    """Bring a backup back; what it was, and how many agents were imported.

    Raises:
        BackupDamaged: it is not as it was written; nothing was changed.
        Conflict: database or session file are not empty; nothing was changed.
        ServiceError: database or Letta cannot be written.
    """
    found = await asyncio.to_thread(manifest.read, folder)
    await load_state(settings, folder, found)
    agents = await load_agents(letta, bridge_tag(settings.tenant.name), folder / "agents", progress) if letta else 0
    return found, agents


def _make_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty; name a new directory for the backup")

"""Makes a backup."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from letta_bridge import __version__, fail_points
from letta_bridge.agent_snapshots import NEVER_CARRIED
from letta_bridge.agents.agent_spec import bridge_tag
from letta_bridge.backup import manifest
from letta_bridge.backup.agents import Progress, SavedAgents, save_agents
from letta_bridge.backup.erasures import ErasedUsers
from letta_bridge.backup.places import CONFIGURATION
from letta_bridge.backup.records import Manifest
from letta_bridge.backup.state import save_state
from letta_bridge.letta.agent_store import AgentStore
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.files import write_json
from shared_utils.clock import utc_now
from shared_utils.persistence.errors import Conflict
from shared_utils.private_files import make_folder, replacing


async def make_backup(
    settings: BridgeSettings,
    store: AgentStore | None,
    folder: Path,
    *,
    configuration: Mapping[str, Any],
    not_saved: Mapping[str, int | str] | None = None,
    ledger: RedisErasureLedger | None = None,
    secrets: bool = False,
    progress: Progress = lambda _what, _count: None,
) -> Manifest:
    """Write a backup below ``folder``, readable by its owner only.

    The state is saved before the agents: a user who appears in between has an agent without a session, and a bridge
    finds that agent by its tags.

    Args:
        settings: the bridge's.
        store: the server that has the agents; None leaves agents out.
        folder: an empty or missing directory.
        configuration: the effective settings without secrets.
        not_saved: contents of Redis, label → how much, for the manifest.
        ledger: names users who are erased meanwhile, as the audit does: no agent of theirs is read from then on.
        secrets: include the values of agents' variables.
        progress: called with a label (``agents``, ``messages``) and the running total.

    Raises:
        Conflict: the folder is not empty.
        ServiceError: the database or Letta cannot be read.
    """
    created_at = utc_now()
    await asyncio.to_thread(_begin, folder)
    state = await save_state(settings, folder)
    fail_points.reach("state_saved")
    tag = bridge_tag(settings.tenant.name)
    erased = ErasedUsers(settings, ledger, created_at)
    await erased.look()
    agents = await save_agents(store, tag, folder, progress, erased, secrets=secrets) if store else SavedAgents()
    write_json(folder / CONFIGURATION, configuration)
    await erased.look()
    fail_points.reach("backup_listed")
    made = Manifest(
        backup_id=str(uuid.uuid4()),
        release=__version__,
        tenant=settings.tenant.name,
        created_at=created_at,
        finished_at=utc_now(),
        state=state,
        agents=tuple(agents.saved),
        skipped=tuple(agents.skipped),
        not_saved=dict(not_saved or {}),
        never_carried=NEVER_CARRIED if agents.saved else (),
        erased=tuple(sorted(erased.hashes)),
        erasures_unread=tuple(erased.unread),
        parts=await asyncio.to_thread(manifest.parts_of, folder),
    )
    await asyncio.to_thread(manifest.write, folder, made)
    return made


def _begin(folder: Path) -> None:
    make_folder(folder)
    if (folder / manifest.UNFINISHED_MARK).exists():
        raise Conflict(f"{folder} contains an incomplete backup; remove it, or name a new directory")
    if any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty; name a new directory for the backup")
    with replacing(folder / manifest.UNFINISHED_MARK) as file:
        file.write(json.dumps({"begun_at": utc_now().isoformat(), "release": __version__}).encode() + b"\n")

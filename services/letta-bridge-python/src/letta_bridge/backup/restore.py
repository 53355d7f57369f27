"""Restores a backup and compares the result with it.

Agents are restored first. The state follows in one transaction, which also replaces agents' former ids in sessions:
once the state is committed, the restore is complete. The operation is idempotent: after a crash at any point it can be
repeated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from letta_bridge import fail_points
from letta_bridge.agent_snapshots import Restored
from letta_bridge.agent_snapshots.restoration import Erased, nobody_erased
from letta_bridge.agent_spec import bridge_tag
from letta_bridge.backup import manifest
from letta_bridge.backup.agents import Progress, load_agents, restorer
from letta_bridge.backup.manifest import OLD_AGENTS_LACK, Manifest
from letta_bridge.backup.state import LoadedState, check_place, load_state
from letta_bridge.backup.workspace import workspace
from letta_bridge.letta.agent_store import AgentStore
from letta_bridge.settings import BridgeSettings


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The result of a restore."""

    manifest: Manifest
    state: LoadedState
    agents: Sequence[Restored]

    @property
    def outcomes(self) -> Counter[str]:
        """Outcome → number of agents."""
        return Counter(agent.outcome for agent in self.agents)

    @property
    def compared(self) -> Counter[str]:
        """Part (``message``, ``block`` ...) → number of items compared with the backup."""
        return sum((agent.comparison.counts for agent in self.agents), Counter[str]())

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the backup does not hold, for people."""
        found: list[str] = [] if self.manifest.whole_agents else [OLD_AGENTS_LACK]
        if self.state.compared < len(self.state.rows):
            found.append("checksums of tables, which the release that made it did not note: they were not compared")
        found += [f"{skipped.name} ({skipped.agent_id}): {skipped.reason}" for skipped in self.manifest.skipped]
        return tuple(found)

    @property
    def whole(self) -> bool:
        """Whether everything in the backup exists now, as it was saved."""
        return all(agent.complete for agent in self.agents)


async def restore_backup(
    settings: BridgeSettings,
    store: AgentStore | None,
    folder: Path,
    *,
    erased: Erased = nobody_erased,
    progress: Progress = lambda _what, _count: None,
) -> RestoreReport:
    """Restore a backup.

    Args:
        settings: the bridge's.
        store: the server to restore agents into; None leaves agents out.
        folder: the backup's directory, which is only read.
        erased: whether a user was erased since the restore began; their agents are left out.
        progress: called with a label (``agents``, ``messages``) and the running total.

    Raises:
        BackupDamaged: a file of the backup is missing, changed or unknown; nothing was changed.
        SnapshotDamaged: this release cannot read an agent's file; nothing was changed.
        Conflict: the database or session file is not empty, or another restore is running; nothing was changed.
        ServiceError: the database or Letta cannot be written; repeat the restore later.
    """
    found = await asyncio.to_thread(manifest.read, folder)
    await check_place(settings, found)
    agents: Sequence[Restored] = ()
    new_ids: dict[str, str] = {}
    with workspace(settings.data_dir) as scratch:
        if store is not None:
            tag = bridge_tag(settings.tenant.name)
            agents = await load_agents(
                restorer(store, tag, folder, scratch, found, erased=erased, progress=progress), folder, found, progress
            )
            now = {agent.agent_id: agent.new_id or agent.other for agent in agents}
            new_ids = {former: new for former, new in now.items() if new is not None and new != former}
        fail_points.passed("agents_restored")
        state = await load_state(settings, folder, scratch, found, new_ids)
    fail_points.passed("state_restored")
    return RestoreReport(found, state, agents)

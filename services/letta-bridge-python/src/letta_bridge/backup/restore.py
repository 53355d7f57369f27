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
from letta_bridge.agent_snapshots import Restored, check_snapshot
from letta_bridge.agents.agent_spec import bridge_tag, users_in
from letta_bridge.backup import manifest
from letta_bridge.backup.agents import Progress, load_agents, restorer
from letta_bridge.backup.erasures import ErasedUsers
from letta_bridge.backup.manifest import OLD_AGENTS_LACK
from letta_bridge.backup.records import Manifest
from letta_bridge.backup.state import LoadedState, check_place, load_state, remove_from_state
from letta_bridge.backup.workspace import workspace
from letta_bridge.letta.agent_store import AgentStore
from letta_bridge.request_queue.creation_leases import CreationLeases
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.erasures.log import user_hash


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The result of a restore."""

    manifest: Manifest
    state: LoadedState
    agents: Sequence[Restored]
    erased_since: int = 0
    """Users who were erased since the backup began, and of whom it holds something: none of it was restored."""
    unread: tuple[str, ...] = ()
    """Why users who were erased since may have been restored, for people."""

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
        """Data missing from the backup, for people."""
        found: list[str] = [] if self.manifest.whole_agents else [OLD_AGENTS_LACK]
        if self.state.compared < len(self.state.rows):
            found.append(
                "checksums of tables: the release that made the backup did not write them, so tables were not compared"
            )
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
    ledger: RedisErasureLedger | None = None,
    leases: CreationLeases | None = None,
    progress: Progress = lambda _what, _count: None,
) -> RestoreReport:
    """Restore a backup, without the data of users who were erased since it began.

    Args:
        settings: the bridge's.
        store: the server to restore agents into; None leaves agents out.
        folder: the backup's directory, which is only read.
        ledger: names erased users, as the audit of this place and the backup itself do; None: only these do.
        leases: see :class:`AgentRestorer`; used where the ledger can be read.
        progress: called with a label (``agents``, ``messages``) and the running total.

    Raises:
        BackupDamaged: a file of the backup is missing, changed or unknown; nothing was changed.
        SnapshotDamaged: this release cannot read an agent's file; nothing was changed.
        Conflict: the database or session file is not empty, or another restore is running; nothing was changed.
        ServiceError: the database or Letta cannot be written; repeat the restore later.
    """
    found = await asyncio.to_thread(manifest.read, folder)
    tag = bridge_tag(settings.tenant.name)
    if store is None and found.tenant is None:  # of an earlier release: its agents tell the tenant, restored or not
        for agent in found.agents:
            await asyncio.to_thread(check_snapshot, folder / agent.path, tag)
    await check_place(settings, found)
    agents: Sequence[Restored] = ()
    new_ids: dict[str, str] = {}
    erased = ErasedUsers(settings, ledger, found.created_at, set(found.erased), list(found.erasures_unread))
    with workspace(settings.data_dir) as scratch:
        await erased.look()
        if store is not None:
            free = leases if erased.ledger is not None else None  # both are in Redis
            agents_of = restorer(store, tag, folder, scratch, found, erased=erased, progress=progress, leases=free)
            agents = await load_agents(agents_of, folder, found, erased, progress)
            now = {agent.agent_id: agent.new_id or agent.other for agent in agents if agent.outcome != "erased"}
            new_ids = {former: new for former, new in now.items() if new is not None and new != former}
        fail_points.reach("agents_restored")
        await erased.look()
        state = await load_state(settings, folder, scratch, found, new_ids, erased=erased.hashes)
        if not state.done_before:
            # An erasure that begins later than this look finds the restored rows, which are committed.
            known = set(erased.hashes)
            await erased.look()
            state.erased |= await remove_from_state(settings, found, erased.hashes - known)
    fail_points.reach("state_restored")
    left_out = {user_hash(user) for agent in agents if agent.outcome == "erased" for user in users_in(agent.tags)}
    return RestoreReport(found, state, agents, len((left_out & erased.hashes) | state.erased), tuple(erased.unread))

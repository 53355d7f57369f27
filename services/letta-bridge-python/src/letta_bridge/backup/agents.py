"""The agents' part of a backup."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from letta_bridge import fail_points
from letta_bridge.agent_snapshots import AgentRestorer, Restored, SharedParts, capture, check_snapshot
from letta_bridge.agent_snapshots.records import snapshot_name
from letta_bridge.backup.erasures import ErasedUsers
from letta_bridge.backup.places import AGENTS
from letta_bridge.backup.records import Manifest, SavedAgent, SkippedAgent
from letta_bridge.errors import AgentGone, LettaRejected, LettaUnavailable, OutcomeUnknown
from letta_bridge.letta.agent_store import AgentStore
from letta_bridge.letta.port import AgentRef
from letta_bridge.request_queue.creation_leases import CreationLeases
from shared_utils.private_files import make_folder

_AGENT_ATTEMPTS: Final = 4
"""Attempts for one agent: a short outage of Letta must not end a backup of thousands."""

Progress = Callable[[str, int], None]
"""Called with a label (``agents``, ``messages``) and the running total."""


@dataclass(slots=True)
class SavedAgents:
    """Agents in a backup, and agents that are missing from it."""

    saved: list[SavedAgent] = field(default_factory=list)
    skipped: list[SkippedAgent] = field(default_factory=list)


async def save_agents(
    store: AgentStore, tag: str, folder: Path, progress: Progress, erased: ErasedUsers, *, secrets: bool
) -> SavedAgents:
    """Write a snapshot of every agent of the tenant below ``folder/agents``.

    An agent that is deleted meanwhile, whose user is erased meanwhile, or that Letta cannot read, is skipped by name.

    Args:
        store: the server that has the agents.
        tag: every agent of the tenant carries it.
        folder: the backup's.
        progress: called with a label and the running total.
        erased: the users who are erased while the backup is made.
        secrets: include the values of agents' variables.

    Raises:
        LettaError: Letta stays unavailable.
    """
    done = SavedAgents()
    shared = SharedParts()
    await asyncio.to_thread(make_folder, folder / AGENTS)
    for number, agent in enumerate(await store.find([tag]), 1):
        await erased.look_at_ledger()
        if erased.among(agent.tags):
            done.skipped.append(
                _skipped(agent, "its user was erased shortly before or during the backup", harmless=True)
            )
            continue
        path = f"{AGENTS}/{snapshot_name(agent.agent_id)}"
        try:
            async for attempt in _patiently():
                with attempt:
                    taken = await capture(
                        store, agent.agent_id, folder / path, secrets=secrets, shared=shared, progress=progress
                    )
        except AgentGone:
            done.skipped.append(_skipped(agent, "deleted during the backup", harmless=True))
        except LettaRejected as error:
            done.skipped.append(_skipped(agent, f"Letta cannot read it: {error}", harmless=False))
        else:
            done.saved.append(
                SavedAgent(
                    agent_id=agent.agent_id,
                    path=path,
                    taken_at=taken.taken_at,
                    counts=taken.counts,
                    left_out=taken.left_out,
                )
            )
            fail_points.reach("agent_saved")
        progress("agents", number)
    return done


def restorer(
    store: AgentStore,
    tag: str,
    folder: Path,
    workspace: Path,
    manifest: Manifest,
    *,
    erased: ErasedUsers,
    progress: Progress,
    leases: CreationLeases | None,
) -> AgentRestorer:
    """The restorer for the agents of a backup.

    Args:
        store: the server to restore into.
        tag: every agent of the tenant carries it; an agent without it is refused.
        folder: the backup's.
        workspace: an existing folder for temporary files.
        manifest: the backup's.
        erased: users who get no agent back.
        progress: called with a label and a running total.
        leases: see :class:`AgentRestorer`.
    """
    parts = folder / AGENTS
    return AgentRestorer(
        store, tag, manifest.backup_id, parts, workspace, erased=erased.is_erased, progress=progress, leases=leases
    )


async def load_agents(
    agents: AgentRestorer, folder: Path, manifest: Manifest, erased: ErasedUsers, progress: Progress
) -> Sequence[Restored]:
    """Restore every agent of a backup whose user has no other one, and was not erased since.

    Every file is checked before the first agent is written.

    Raises:
        SnapshotDamaged: a file is no snapshot, or no agent file; nothing was written.
        LettaError: Letta is unavailable; call this again later.
    """
    tags = [await asyncio.to_thread(check_snapshot, folder / agent.path, agents.tag) for agent in manifest.agents]
    restored = []
    for number, (agent, theirs) in enumerate(zip(manifest.agents, tags, strict=True), 1):
        await erased.look_at_ledger()
        if erased.among(theirs):
            restored.append(await agents.leave_out(agent.agent_id, theirs))
        else:
            restored.append(await agents.restore(agent.agent_id, folder / agent.path))
        progress("agents", number)
    return restored


def _patiently() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type((LettaUnavailable, OutcomeUnknown)),
        stop=stop_after_attempt(_AGENT_ATTEMPTS),
        wait=wait_exponential(multiplier=0.5, max=10),
        reraise=True,
    )


def _skipped(agent: AgentRef, reason: str, *, harmless: bool) -> SkippedAgent:
    return SkippedAgent(agent_id=agent.agent_id, name=agent.name, reason=reason, harmless=harmless)

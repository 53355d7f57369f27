"""The agents of the bridge as agent files: out of Letta, and back into one that lost them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from letta_bridge.agent_spec import identity_tags
from letta_bridge.backup.manifest import BackupDamaged
from letta_bridge.letta.port import LettaPort

Progress = Callable[[int], None]
"""Is told each time how many agents are done."""


async def save_agents(letta: LettaPort, tag: str, folder: Path, progress: Progress = lambda _: None) -> int:
    """Write ``<agent id>.af`` for every agent that carries ``tag``; how many."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    agents = await letta.find_agents([tag])
    for done, agent in enumerate(agents, start=1):
        content = await letta.export_agent(agent.agent_id)
        await asyncio.to_thread((folder / f"{agent.agent_id}.af").write_bytes, content)
        progress(done)
    return len(agents)


async def load_agents(letta: LettaPort, tag: str, folder: Path, progress: Progress = lambda _: None) -> int:
    """Import every agent of the tenant with ``tag`` whose user has none in Letta; how many.

    They get ids of their own. A session that names the old one finds its agent by its tags with the next turn.

    Raises:
        BackupDamaged: a file is no agent file.
    """
    imported = 0
    for done, file in enumerate(sorted(await asyncio.to_thread(lambda: list(folder.glob("*.af")))), start=1):
        content = await asyncio.to_thread(file.read_bytes)
        if not await letta.find_agents(_tags(content, tag, file)):
            await letta.import_agent(content)
            imported += 1
        progress(done)
    return imported


def _tags(content: bytes, tag: str, file: Path) -> Sequence[str]:
    try:
        tags = [str(tag) for tag in json.loads(content)["agents"][0]["tags"]]
    except (ValueError, KeyError, IndexError, TypeError):
        raise BackupDamaged(f"{file} is not an agent file of this project; remove it from the backup") from None
    if tag not in tags:
        raise BackupDamaged(
            f"{file} holds an agent without the tag '{tag}', so of another tenant; remove it from the backup, or "
            "correct tenant.name"
        )
    return identity_tags(tags)

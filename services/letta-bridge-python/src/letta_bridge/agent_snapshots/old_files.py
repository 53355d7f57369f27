"""Agent files in backups of earlier releases: Letta's own exports, which hold only the messages in context."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from letta_bridge.agent_snapshots.errors import SnapshotDamaged
from shared_utils.private_files import replacing

ENDING: Final = ".af"


def tags_of(path: Path) -> tuple[str, ...]:
    """The tags of the agent in a file.

    Raises:
        SnapshotDamaged: it is not an agent file of this project.
    """
    return tuple(str(tag) for tag in _agent(path, _content(path))["tags"])


def retagged(path: Path, target: Path, tags: Sequence[str]) -> None:
    """Write the file with other tags."""
    content = _content(path)
    _agent(path, content)["tags"] = list(tags)
    with replacing(target) as file:
        file.write(json.dumps(content).encode())


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None


def _agent(path: Path, content: Any) -> dict[str, Any]:
    try:
        agent = content["agents"][0]
        _ = [*agent["tags"]]
    except (KeyError, IndexError, TypeError):
        raise SnapshotDamaged(f"{path} is not an agent file of this project; remove it from the backup") from None
    held: dict[str, Any] = agent
    return held

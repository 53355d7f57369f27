"""The format of a snapshot file: one JSON object per line, in this order.

============  ==========================================================================================================
``part``      fields
============  ==========================================================================================================
snapshot      format, release, taken_at, agent_id, name, tags, created_at, context: message ids, the first is the
              compiled system prompt
settings      settings: system prompt, models, tool rules and whatever else Letta says of the agent
tool          tool: a tool of the agent, with its source code
variable      name, and value where secrets were asked for
block         id, shared, content; kept_in: agent in whose snapshot of the same backup it was met first
conversation  id, context, summary, settings: a side conversation
archive       id, shared, settings; kept_in: agent whose snapshot of the same backup has its passages
message       id, row, run_id; exact: false where Letta could give its short form only
passage       id, archive_id, text, created_at, tags, metadata
end           counts: lines of each part; left_out: what could not be carried, for people
============  ==========================================================================================================

A file without the line ``end`` is incomplete.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from letta_bridge.agent_snapshots.errors import SnapshotDamaged
from shared_utils.private_files import file_name

FORMAT: Final = 1
ENDING: Final = ".jsonl"
PARTS: Final = ("tool", "variable", "block", "conversation", "archive", "message", "passage")
"""Parts that may occur several times."""
NEVER_CARRIED: Final = (
    "embeddings of passages, which Letta computes again",
    "ids of messages, runs and steps, which Letta assigns again",
    "token usage and step records",
    "earlier values of memory blocks",
)
"""Data that no snapshot contains, or no Letta server accepts, for people."""

Line = Mapping[str, Any]


def snapshot_name(agent_id: str) -> str:
    """The file name of an agent's snapshot."""
    return file_name(agent_id, ENDING)


def encoded(line: Line) -> bytes:
    """A line of a snapshot file. A lone surrogate, which UTF-8 cannot hold, is written as a JSON escape."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Stream the lines of a snapshot file.

    Raises:
        SnapshotDamaged: the file is no snapshot, is incomplete, or has the format of a newer release.
    """
    counts: Counter[str] = Counter()
    line: dict[str, Any] = {}
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if line.get("part") == "end":
                raise SnapshotDamaged(f"{path} has lines after its last one; use another copy of it")
            line = _parsed(path, number, text)
            _check_place(path, number, line)
            counts[line["part"]] += 1
            yield line
    if line.get("part") != "end":
        raise SnapshotDamaged(f"{path} has no last line, so it is incomplete; use another copy of it")
    found = {part: counts[part] for part in PARTS}
    if line.get("counts") != found:
        raise SnapshotDamaged(
            f"{path} contains {found}, but its last line counts {line.get('counts')}; use another copy"
        )


def _parsed(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("part"), str):
        raise SnapshotDamaged(f"line {number} of {path} is not part of a snapshot; use another copy of it")
    return line


def _check_place(path: Path, number: int, line: Line) -> None:
    if (number == 1) != (line["part"] == "snapshot"):
        raise SnapshotDamaged(f"{path} is not a snapshot of an agent; use another copy of it")
    if number == 1 and line.get("format") != FORMAT:
        raise SnapshotDamaged(
            f"{path} is of format {line.get('format')!r}, which only a newer release can read; upgrade"
        )
    if line["part"] not in {"snapshot", "settings", "end", *PARTS}:
        raise SnapshotDamaged(
            f"line {number} of {path} is a part {line['part']!r}, which only a newer release can read; upgrade"
        )

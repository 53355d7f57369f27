"""Snapshots: files that hold one agent completely.

A snapshot is a file of JSON lines in the format of `records.py`. `capture.py` takes one from a Letta server,
`restoration.py` restores it into a server, `comparison.py` compares two, and `agent_file.py` converts one to Letta's
own format.
"""

from __future__ import annotations

from letta_bridge.agent_snapshots.capture import Captured, SharedParts, capture
from letta_bridge.agent_snapshots.errors import SnapshotDamaged
from letta_bridge.agent_snapshots.records import NEVER_CARRIED
from letta_bridge.agent_snapshots.restoration import AgentRestorer, Restored, check_snapshot

__all__ = [
    "NEVER_CARRIED",
    "AgentRestorer",
    "Captured",
    "Restored",
    "SharedParts",
    "SnapshotDamaged",
    "capture",
    "check_snapshot",
]

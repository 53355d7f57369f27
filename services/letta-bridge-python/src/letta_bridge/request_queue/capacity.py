"""Parses the result of ``lua/capacity.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from letta_bridge.request_queue.port import Capacity

_WRITES: Final = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
"""Fields of INFO that say ``ok`` or ``err``."""


def capacity_of(answer: Sequence[Any]) -> tuple[float, Capacity | None]:
    """The age in seconds of the oldest turn that is not journalled, and Redis's memory and disk status."""
    now_ms, oldest, memory, persistence = answer
    age = max(0, int(now_ms) - int(oldest.partition(b"-")[0])) / 1000 if oldest else 0.0
    fields = _fields(memory) | _fields(persistence)
    try:
        used, limit = int(fields["used_memory"]), int(fields["maxmemory"])
    except (KeyError, ValueError):
        return age, None
    return age, Capacity(used, limit, saves=all(fields.get(name, "ok") == "ok" for name in _WRITES))


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}

"""Checks counters and keys once the queue is idle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import redis

from bridge_chaos.environment import QUEUE
from bridge_chaos.promises.verdict import Verdict
from bridge_chaos.waiting import wait_until

AT_REST_SECONDS: Final = 20.0
"""What the queue may take to come to rest after the last reply."""


def judge_accounts(verdict: Verdict, client: redis.Redis, *, patience: float) -> None:
    """Report inconsistent counters and keys, once the queue is idle."""
    problems: list[str] = []

    def balanced() -> bool:
        problems[:] = _imbalances(client)
        return not problems

    wait_until(balanced, patience, pause=0.1)
    for problem in problems:
        verdict.add("accounts", problem)


def _imbalances(client: redis.Redis) -> list[str]:
    key = f"{{{QUEUE}}}:"
    raw: Any = client.hgetall(f"{key}counters")
    counters = {name.decode(): int(count) for name, count in raw.items()}
    settled = sum(count for name, count in counters.items() if name.startswith("settled:"))
    problems = []
    if counters.get("taken", 0) != settled:
        problems.append(f"taken {counters.get('taken', 0)}, settled {settled}")
    sizes: Sequence[tuple[str, Any]] = [
        (QUEUE, client.llen(QUEUE)),
        *((name, client.llen(f"{key}{name}")) for name in ("incoming", "ready")),
        *((name, client.hlen(f"{key}{name}")) for name in ("lanes", "turns")),
        ("leases", client.zcard(f"{key}leases")),
    ]
    problems += [f"{name} has {size} left" for name, size in sizes if size]
    problems += [f"{name.decode()} is left" for name in client.scan_iter(match="{*}:lane:*", count=1000)]
    missed = sum(int(client.llen(name)) for name in client.scan_iter(match="{*}:missed:*", count=1000))
    if counters.get("missed_pending", 0) != missed:
        problems.append(f"missed_pending is {counters.get('missed_pending', 0)}, and {missed} wait")
    return problems

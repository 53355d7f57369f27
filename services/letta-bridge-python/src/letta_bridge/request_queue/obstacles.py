"""The obstacles that keep a queue's tasks waiting, each as one sentence: problem, effect, remedy."""

from __future__ import annotations

from typing import Final

from letta_bridge.request_queue.admin import Lane, QueueAdmin
from letta_bridge.request_queue.keys import user_of
from shared_utils.text import counted

_CROWDED_LANE: Final = 20
"""Number of one user's waiting tasks that suggests a flood."""
_LIMIT_ADVICE: Final = "limit such users with limits.max_pending_per_user and limits.turns_per_minute (docs/limits.md)"


def no_bridge(queue: str, waiting: int = 0) -> str:
    """No bridge is alive.

    Args:
        queue: name of the request list.
        waiting: tasks that no bridge takes; 0 if they are not counted.
    """
    so = f", so {counted(waiting, 'task')} {'waits' if waiting == 1 else 'wait'}" if waiting else ""
    return f"no bridge serves the queue {queue}{so}; start one: letta-bridge run"


async def crowded_lane(admin: QueueAdmin) -> Lane | None:
    """The fullest lane, if one user has so many waiting tasks that it may be a flood."""
    lane = await admin.fullest_lane()
    return lane if lane is not None and lane.waiting >= _CROWDED_LANE else None


def crowded(lane: Lane) -> tuple[str, str]:
    """The sentence about a lane that one user floods."""
    user = user_of(lane.lane) or lane.lane
    return (
        f"{lane.waiting} tasks of the user {user} wait and are processed one at a time; other users are not affected",
        f"{_LIMIT_ADVICE}, or end this user's tasks: letta-bridge user drop",
    )

"""The request list, its lanes, and the turns in flight."""

from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.port import FetchResult, Outcome, PauseMode, QueueStatus, RequestQueue, Settlement, Turn
from letta_bridge.request_queue.redis_queue import RedisQueue

__all__ = [
    "FetchResult",
    "Keys",
    "Outcome",
    "PauseMode",
    "QueueStatus",
    "RedisQueue",
    "RequestQueue",
    "Settlement",
    "Turn",
]

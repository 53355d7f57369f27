"""A client of the Letta memory bridge: pushes a user's message over Redis, and returns the reply."""

from letta_bridge_client.bridge import Bridge
from letta_bridge_client.errors import BridgeError, NoReply, RedisUnavailable, RepliesMissed, TaskFailed
from letta_bridge_client.reply import Reply, Usage
from letta_bridge_client.sync import SyncBridge

__all__ = [
    "Bridge",
    "BridgeError",
    "NoReply",
    "RedisUnavailable",
    "RepliesMissed",
    "Reply",
    "SyncBridge",
    "TaskFailed",
    "Usage",
]

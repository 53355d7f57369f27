"""A client of the Letta memory bridge: pushes a user's message over Redis, and returns the reply."""

from letta_bridge_client.bridge import Bridge
from letta_bridge_client.errors import BridgeError, NoReply, RedisUnavailable, RepliesMissed, TaskFailed
from letta_bridge_client.events import Delta, End, Event, Interrupted, Restart, Sentence, Started, Tool
from letta_bridge_client.interrupts import NOTHING_HEARD, Heard
from letta_bridge_client.reply import Reply, Usage
from letta_bridge_client.reply_stream import ReplyStream
from letta_bridge_client.sync import SyncBridge, SyncReplyStream

__all__ = [
    "NOTHING_HEARD",
    "Bridge",
    "BridgeError",
    "Delta",
    "End",
    "Event",
    "Heard",
    "Interrupted",
    "NoReply",
    "RedisUnavailable",
    "RepliesMissed",
    "Reply",
    "ReplyStream",
    "Restart",
    "Sentence",
    "Started",
    "SyncBridge",
    "SyncReplyStream",
    "TaskFailed",
    "Tool",
    "Usage",
]

"""What one user, and all of them, may ask for."""

from letta_bridge.guards.guards import Admission, Guards
from letta_bridge.guards.meter import InMemoryUsageStore, Meter, UsageSnapshot
from letta_bridge.guards.redis_meter import RedisUsageStore

__all__ = ["Admission", "Guards", "InMemoryUsageStore", "Meter", "RedisUsageStore", "UsageSnapshot"]

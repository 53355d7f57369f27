"""What one user, and all of them, may ask for."""

from letta_bridge.guards.guards import Admission, Limiter
from letta_bridge.guards.meter import InMemoryUsageStore, UsageSnapshot, UsageStore
from letta_bridge.guards.redis_meter import RedisUsageStore

__all__ = ["Admission", "InMemoryUsageStore", "Limiter", "RedisUsageStore", "UsageSnapshot", "UsageStore"]

"""What one user, and all of them, may ask for."""

from letta_bridge.limits.limiter import Admission, Limiter
from letta_bridge.limits.redis_usage_store import RedisUsageStore
from letta_bridge.limits.usage_store import UsageSnapshot, UsageStore

__all__ = ["Admission", "Limiter", "RedisUsageStore", "UsageSnapshot", "UsageStore"]

"""Limits for one user and for all users."""

from letta_bridge.limits.limiter import Admission, Limiter
from letta_bridge.limits.redis_usage_store import RedisUsageStore
from letta_bridge.limits.usage_store import UsageSnapshot, UsageStore

__all__ = ["Admission", "Limiter", "RedisUsageStore", "UsageSnapshot", "UsageStore"]

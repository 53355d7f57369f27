"""What one user, and all of them, may ask for."""

from letta_bridge.guards.guards import Admission, Guards
from letta_bridge.guards.meter import InMemoryMeter, Meter, Standing
from letta_bridge.guards.redis_meter import RedisMeter

__all__ = ["Admission", "Guards", "InMemoryMeter", "Meter", "RedisMeter", "Standing"]

"""Short-term memory in Redis, and the Letta bridge's fallback. Run it with ``memory-python run``."""

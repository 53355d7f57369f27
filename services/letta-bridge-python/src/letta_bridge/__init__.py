"""letta-bridge: takes chat tasks from Redis and answers them through each user's own Letta agent."""

from importlib.metadata import version as _version

__version__ = _version("letta-bridge")

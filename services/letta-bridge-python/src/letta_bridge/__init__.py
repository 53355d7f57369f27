"""letta-bridge: takes chat tasks from Redis and answers them through each user's own Letta agent."""

from importlib.metadata import version as _version

from shared_utils.operator_commands import declare_program as _declare_program

__version__ = _version("letta-bridge")

_declare_program("letta-bridge")

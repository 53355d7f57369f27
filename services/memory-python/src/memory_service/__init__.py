"""Short-term memory in Redis, and the Letta bridge's fallback. Run it with ``memory-python run``."""

from shared_utils.operator_commands import declare_program as _declare_program

_declare_program("letta-bridge")  # its tables are made and mended by the bridge's commands

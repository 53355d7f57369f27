"""Names that installed databases and running releases know this project by. They stay, whatever a program is called."""

from __future__ import annotations

from typing import Final

SCHEMA: Final = "letta_bridge"
"""Of the tables, by default: the data of every installation lies there."""
APPLICATION: Final = "letta-bridge"
"""``application_name`` of connections, which operators filter by."""
LOCKS: Final = "letta-bridge"
"""Prefix of the names of advisory locks, the same in all releases."""

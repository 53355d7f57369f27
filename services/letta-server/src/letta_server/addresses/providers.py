"""Letta's own providers follow the settings: their addresses, and which of their models are listed.

Letta makes the row of such a provider once and never changes it. It marks models that an endpoint no longer lists, and
a provider whose key is gone, as deleted, and then never makes them again, because their names are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from letta_server import database
from letta_server.database import Connection
from shared_utils.llm.model_address import OPENAI, same

_SELECT: Final = """
    SELECT id, name, coalesce(base_url, ''), is_deleted FROM providers
    WHERE organization_id IS NULL AND coalesce(provider_category, 'base') = 'base' AND name = ANY(%s)
    ORDER BY id FOR UPDATE
"""
_UPDATE: Final = "UPDATE providers SET base_url = %s, is_deleted = false WHERE id = %s"
_FORGET_DELETED: Final = "DELETE FROM provider_models WHERE provider_id = %s AND is_deleted"
_FORGET_HANDLES: Final = "DELETE FROM provider_models WHERE provider_id = %s AND model_type = 'llm'"


@dataclass(frozen=True, slots=True)
class Moved:
    """A provider whose address was changed."""

    name: str
    before: str
    after: str


def align(connection: Connection, configured: Mapping[str, str]) -> list[Moved]:
    """Bring Letta's own providers to their configured addresses; call it before Letta lists their models.

    Several letta-servers may do so at once; the last one to start decides.

    Args:
        connection: to Letta's database, in a transaction that the caller commits.
        configured: name of a provider → its address.

    Returns:
        The providers whose address is now another one.
    """
    moved: list[Moved] = []
    database.limit_waiting(connection)
    rows = connection.execute(_SELECT.encode(), [list(configured)]).fetchall()
    for provider_id, name, stored, deleted in rows:
        address = configured[name]
        connection.execute(_FORGET_DELETED, [provider_id])
        if stored == address and not deleted:
            continue
        connection.execute(_UPDATE, [address, provider_id])
        if (stored == OPENAI) != (address == OPENAI):
            # The handles are others, but a row of the same model would keep Letta from writing the new one.
            connection.execute(_FORGET_HANDLES, [provider_id])
        if stored and not same(stored, address):
            moved.append(Moved(name, stored, address))
    return moved

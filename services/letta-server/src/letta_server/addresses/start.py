"""What a start does about the addresses of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg

from letta_server import database
from letta_server.addresses import holders, providers
from letta_server.addresses.holders import Place, Scope
from letta_server.console import say
from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit
from shared_utils.llm.model_address import shown

_SHOWN_ADDRESSES: Final = 3


def configured(letta: Any) -> dict[str, str]:
    """Name → address of the providers that Letta has by its settings; those without an address are left out.

    Args:
        letta: Letta's ``SyncServer``.
    """
    return {str(provider.name): str(provider.base_url) for provider in letta._enabled_providers if provider.base_url}  # noqa: SLF001 - Letta shows them nowhere else


def follow(url: DatabaseUrl, addresses: Mapping[str, str], *, agents: bool) -> None:
    """Bring the providers to their configured addresses, and the bridge's agents, too, or else say what they hold.

    Args:
        url: Letta's database.
        addresses: name of a provider → its address.
        agents: whether agents and archives of the bridge follow.

    Raises:
        DatabaseUnfit: the database does not allow it.
    """
    try:
        connection = database.connect(url)
        if connection is None:
            raise DatabaseUnfit(f"Database {url} was dropped during the start; start again.")
        with connection:
            for moved in providers.align(connection, addresses):
                say(f"the address of provider {moved.name} is now {shown(moved.after)}; it was {shown(moved.before)}.")
            database.commit(connection, url)
            wrong = holders.astray(holders.places(connection, Scope()), addresses)
            if not wrong:
                return
            if agents:
                done = holders.move(connection, url, Scope(), wrong)
                say(f"{done.changed} agents and archives of the bridge follow (LETTA_SERVER_REPOINT_AGENTS).")
            else:
                say(advice(wrong))
    except psycopg.Error as error:
        reason = error.diag.message_primary or type(error).__name__
        raise DatabaseUnfit(
            f"The addresses of models in database {url} cannot be brought up to date: {reason}."
        ) from None


def advice(wrong: Sequence[tuple[Place, str]]) -> str:
    """One sentence about holders that have not their provider's address, with the command that moves them."""
    total = sum(place.count for place, _ in wrong if place.column.what == "agents") or wrong[0][0].count
    olds = sorted({shown(place.address) for place, _ in wrong})
    first, new = max(wrong, key=lambda one: one[0].count)
    target = f" --to {new}" if shown(new) == new else ""  # else by OPENAI_BASE_URL, and not to be written down
    more = f" and {len(olds) - _SHOWN_ADDRESSES} more" if len(olds) > _SHOWN_ADDRESSES else ""
    return (
        f"{total} agents or archives of the bridge still call the model at {', '.join(olds[:_SHOWN_ADDRESSES])}{more}, "
        f"and not at {shown(new)}; move them with: letta-server repoint --from {shown(first.address)}{target} "
        "--yes (or set LETTA_SERVER_REPOINT_AGENTS=true and start again)."
    )

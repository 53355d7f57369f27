"""Builds the client of a Letta server from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from letta_bridge.settings import LettaSettings

if TYPE_CHECKING:
    from letta_bridge.letta.agent_store import AgentStore
    from letta_bridge.letta.letta_client import LettaClient


def letta_client(settings: LettaSettings, url: str | None = None, **limits: Any) -> LettaClient:
    """A client with the configured password.

    Args:
        settings: of Letta.
        url: which of its servers; the first where not given, since they share one database.
        limits: ``max_concurrency`` and the like, as LettaClient takes them.
    """
    # Imported here, because it imports Letta's SDK, which is slow and not needed by every command.
    from letta_bridge.letta.letta_client import LettaClient  # noqa: PLC0415

    key = settings.api_key
    return LettaClient(url or settings.api_urls[0], api_key=key.get_secret_value() if key else None, **limits)


def agent_store(client: LettaClient) -> AgentStore:
    """A store of complete agents over a client. Closing the store does not close the client."""
    from letta_bridge.letta.agent_store_client import LettaAgentStore  # noqa: PLC0415  # as above

    return LettaAgentStore(client)

"""Suggests handles of Letta's, PROVIDER/MODEL, for a configured one that Letta does not offer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from letta_bridge.errors import LettaError
from letta_bridge.letta.factory import letta_client
from shared_utils.observability import logs

if TYPE_CHECKING:
    from letta_bridge.settings import BridgeSettings

_log = logs.get(__name__)
_PROVIDERS: Final = ("openai", "openai-proxy")
"""The providers of OPENAI_API_KEY: at OpenAI's own address, and at any other OPENAI_BASE_URL."""
_TIMEOUT_SECONDS: Final = 15.0
SHOWN_HANDLES: Final = 5


def is_bare(handle: str) -> bool:
    """Whether it is a model's name without a provider, which Letta knows under no handle."""
    return "/" not in handle


def suggestions(handle: str, known: Sequence[str]) -> list[str]:
    """Handles that may be meant, the likeliest first; empty where none is near.

    Args:
        handle: what is configured.
        known: what Letta offers; empty where it cannot be asked.
    """
    if not known:
        return [f"{provider}/{handle}" for provider in _PROVIDERS] if is_bare(handle) else []
    name = handle.rpartition("/")[2].lower()
    of_that_name = [
        other for other in known if other.partition("/")[2].lower() == name or other.lower().endswith(f"/{name}")
    ]
    by_name = {other.partition("/")[2]: other for other in reversed(known)}
    near = difflib.get_close_matches(handle, known, n=SHOWN_HANDLES, cutoff=0.5)
    near += [by_name[other] for other in difflib.get_close_matches(name, list(by_name), n=SHOWN_HANDLES, cutoff=0.6)]
    return list(dict.fromkeys([*of_that_name, *near]))[:SHOWN_HANDLES]


async def tell_unknown_handles(settings: BridgeSettings) -> None:
    """Log the configured handles that a Letta server does not offer, at a bridge's start.

    A server that does not answer is left out, unless a handle is a name alone: that is wrong for every server.
    """
    if not settings.letta.enabled:
        return
    for url in settings.letta.api_urls:
        client = letta_client(settings.letta, url, max_concurrency=2, timeout=_TIMEOUT_SECONDS)
        try:
            models, embeddings = await client.model_handles(), await client.embedding_handles()
        except LettaError:
            models, embeddings = [], []
        finally:
            await client.close()
        _tell("LETTA_MODEL", settings.agents.model, models)
        if settings.agents.embedding is not None:
            _tell("LETTA_EMBEDDING", settings.agents.embedding, embeddings)


def _tell(setting: str, handle: str, known: Sequence[str]) -> None:
    if handle not in known and (known or is_bare(handle)):
        suggested = suggestions(handle, known) or list(known[:SHOWN_HANDLES])
        _log.warning("model_not_offered", setting=setting, handle=handle, suggested=suggested)

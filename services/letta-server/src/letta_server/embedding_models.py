"""Offers an embedding model of one's own. Letta lists three names of OpenAI's for every OpenAI-compatible address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from letta_server.replacement import replace
from letta_server.settings import EmbeddingModel

_PROVIDER: Final = "openai"
"""Letta's own provider, whose key and address the operator sets."""

_List = Callable[[Any], Awaitable[list[Any]]]


def install(model: EmbeddingModel | None) -> None:
    """Offer the model as ``openai/<name>`` beside Letta's own. Imports parts of Letta.

    Args:
        model: the operator's; None changes nothing.

    Raises:
        LettaServerError: the function is not the one the hook was written for.
    """
    if model is not None:
        target = "letta.schemas.providers.openai:OpenAIProvider.list_embedding_models_async"
        replace(target, lambda original: _with(original, model))


def _with(original: _List, model: EmbeddingModel) -> _List:
    async def listed(provider: Any) -> list[Any]:
        found = await original(provider)
        if provider.name != _PROVIDER or any(one.embedding_model == model.name for one in found):
            return found
        own = {
            "embedding_model": model.name,
            "embedding_dim": model.dimensions,
            "handle": provider.get_handle(model.name, is_embedding=True),
        }
        return [*found, found[0].model_copy(update=own)]

    return listed

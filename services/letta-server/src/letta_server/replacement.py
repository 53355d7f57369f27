"""Replaces functions of Letta's, and of its packages, in this process; no file is edited.

A hook is written for one source text of the function it replaces. Where Letta's source differs, the hook is refused
and the start ends, so that another release of Letta never runs with a hook that does not fit it, nor without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, Final

from letta_server.errors import LettaServerError

SOURCES: Final[dict[str, str]] = {
    "httpcore._async.http11:AsyncHTTP11Connection._response_closed": (
        "f26a0647f3a51321634ea28bec87aa0e2604e86040154ebd7710e070f002b111"
    ),
    "letta.functions.ast_parsers:resolve_type": "91cf3ddb58469f498f2318d77bf5d501e745b5ace41b214307c4027a02a31c97",
    "letta.helpers.message_helper:_fetch_image_from_url": (
        "852f3b6be8635037ff4fb425b81851e5449715437f774772996bba4d571683f4"
    ),
    "letta.interfaces.openai_streaming_interface:SimpleOpenAIStreamingInterface._process_chunk": (
        "b075c1bbd08b3ddc79e419fe7a26de5cfbd51ace0ae46360ec49b09a9d248da5"
    ),
    "letta.llm_api.openai_client:OpenAIClient.request_async": (
        "b16e8b75166e637817f19158be8d2c45b63c2851630d9b42afe422e2559ac706"
    ),
    "letta.llm_api.openai_client:OpenAIClient.request_embeddings": (
        "4c7fb7fe6a0f93564e6d4ab529f41ae421f691aee0f9b2897459286ec34827dd"
    ),
    "letta.llm_api.openai_client:OpenAIClient.stream_async": (
        "967777e72b0c6ca53fd8dda45e6d5bac241620e74b6263dfa9cb3269b4824653"
    ),
    "letta.llm_api.openai_client:OpenAIClient.stream_async_responses": (
        "fd8d0ce218a8ce7549c6de6dbfaeb7ba7c28ce340019d0a36aea18283d6e0998"
    ),
    "letta.orm.message:Message.to_pydantic": "8cfa29b9d96ba743463c7fd39e5fd7676b5dfa5b6c3d69f8d79b60533354fb00",
    "letta.schemas.message:Message.to_openai_dict": (
        "b5e3feee4a1ef06638ecb398c10d837669f8934120f23d45e8636998c8b53cc8"
    ),
    "letta.schemas.providers.openai:OpenAIProvider.list_embedding_models_async": (
        "d3e5118e60dc82e9a0eb5a4bb3add88b8a9c925b21c2ead7c5d16ece09b91cd6"
    ),
    "letta.schemas.tool:get_json_schema_from_module": (
        "02b6a4a39b58be307a248fec571742c18fe536939fb7c7263a9d8b610cae3c58"
    ),
    "letta.services.mcp_manager:MCPManager.create_or_update_mcp_server": (
        "f221c7e984a8368ba1cda31e467415a8df716f8c837ae7d8a094ddd4b8fe3b47"
    ),
    "letta.services.message_manager:MessageManager._get_messages_by_id_postprocess": (
        "e3d7497293a2d2139645b4e984eef8e878417176dc42c062d45cc54b95710999"
    ),
    "letta.services.message_manager:MessageManager.get_messages_by_ids_async": (
        "1d622ddb8e1f3e9360af338e11671ca3821548c182696dfa87e737b29cdc0dc1"
    ),
    "letta.services.run_manager:RunManager.create_run": (
        "9d07d1cca186c03b1fcba89b2eed32fa87e23f6cffc2c440160bd9b383e55ef8"
    ),
    "letta.services.run_manager:RunManager.update_run_by_id_async": (
        "660378bdd069f741a184c42c7ada5ca853c0300c07f9dc076d532c7616b34b83"
    ),
    "letta.services.step_manager:StepManager.record_step_metrics_async": (
        "a202d8e1399e2002290f9d4cb73c0488b20e897e21cdcda11bf6f788b813df8f"
    ),
    "letta.services.tool_sandbox.base:AsyncToolSandboxBase._gather_env_vars": (
        "db2586548751184792bb3e065025641d35c7f539e49fe693a2ba08f49607bd04"
    ),
}
"""Each function that a hook replaces or relies on: ``module:qualified name`` → SHA-256 of its source text, decorators
included, in Letta 0.16.8 with the packages of requirements.lock."""


def require(*targets: str) -> None:
    """Check functions that a hook relies on without replacing them. Imports their modules.

    Raises:
        LettaServerError: as ``replace``.
    """
    for target in targets:
        _find(target)


def replace(target: str, hook: Callable[[Any], Any]) -> None:
    """Put ``hook(original)`` in the place of a function. Imports the function's module.

    A module that has imported the function by name keeps the original; a target names the module that calls it.

    Args:
        target: a key of ``SOURCES``.
        hook: gets the original, which it may call; returns what takes its place.

    Raises:
        LettaServerError: the function is missing, or its source text is not the one the hook was written for.
    """
    owner, name, original = _find(target)
    setattr(owner, name, hook(original))


def _find(target: str) -> tuple[Any, str, Any]:
    """The module or class, the name in it, and the function."""
    module, _, path = target.partition(":")
    owner_path, _, name = path.rpartition(".")
    source, owner, original = "", None, None
    with contextlib.suppress(ImportError, AttributeError, OSError, TypeError):
        owner = pkgutil.resolve_name(f"{module}:{owner_path}")
        original = getattr(owner, name)
        source = inspect.getsource(original)
    if hashlib.sha256(source.encode()).hexdigest() != SOURCES[target]:
        raise LettaServerError(
            f"The function {target} is not that of Letta 0.16.8 and its locked packages, so letta-server cannot "
            "replace it; install the versions of requirements.lock."
        )
    return owner, name, original

"""Takes from Letta what its agents need not have: the server's secrets, fetches of named addresses, ``eval``.

Each hook replaces one function of Letta's; see ``replacement``.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from letta_server.replacement import replace

_PR_SET_DUMPABLE: Final = 4
"""Of ``prctl``, on Linux."""
_TOOL_VARIABLES: Final = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LETTA_DIR",
        "PATH",
        "PYTHONPATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
    }
)
"""What a tool's process gets of the server's environment, beside ``LC_*``; none of it is secret."""
_NOT_FETCHED: Final = "letta-server fetches no addresses; send the image itself, as a data: URL or in base64"
_NO_MCP_SERVERS: Final = (
    "letta-server registers no MCP servers from agent files, because Letta would connect to the addresses in the "
    "file; remove mcp_servers from the file, or set LETTA_SERVER_FULL_API=true for letta-server"
)


def install(*, full_api: bool) -> None:
    """Install all hooks. Imports parts of Letta.

    Args:
        full_api: leave out the hooks that only complete the allowlist, since the whole API is served.

    Raises:
        LettaServerError: a function is not the one its hook was written for.
    """
    replace("letta.services.tool_sandbox.base:AsyncToolSandboxBase._gather_env_vars", _without_secrets)
    replace("letta.helpers.message_helper:_fetch_image_from_url", _refusing_to_fetch)
    replace("letta.functions.ast_parsers:resolve_type", _without_eval)
    if not full_api:
        # Imports of agent files are on the allowlist, operations on MCP servers are not.
        replace("letta.services.mcp_manager:MCPManager.create_or_update_mcp_server", _refusing_mcp_servers)


def forbid_inspection() -> None:
    """Close this process's environment and memory to other processes of the same user, which tools are; Linux only.

    Root is not kept out. What was started before keeps its own setting, and so does what is started later.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def tool_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the server's environment that the process of a tool gets."""
    return {name: value for name, value in environment.items() if name in _TOOL_VARIABLES or name.startswith("LC_")}


def _without_secrets(original: Callable[..., Any]) -> Callable[..., Any]:
    async def gather(
        self: Any, agent_state: Any, additional_env_vars: dict[str, str] | None, sbx_id: str, is_local: bool
    ) -> dict[str, str]:
        # With is_local, Letta begins with the server's whole environment.
        own: dict[str, str] = await original(self, agent_state, additional_env_vars, sbx_id, is_local=False)
        return {**tool_environment(os.environ), **own} if is_local else own

    return gather


def _refusing_to_fetch(_original: Callable[..., Any]) -> Callable[..., Any]:
    from letta.errors import LettaImageFetchError  # noqa: PLC0415

    async def refuse(url: str, *_: Any, **__: Any) -> NoReturn:
        raise LettaImageFetchError(url=url, reason=_NOT_FETCHED)

    return refuse


def _refusing_mcp_servers(_original: Callable[..., Any]) -> Callable[..., Any]:
    from letta.errors import LettaInvalidArgumentError  # noqa: PLC0415

    async def refuse(*_: Any, **__: Any) -> NoReturn:
        raise LettaInvalidArgumentError(_NO_MCP_SERVERS, argument_name="mcp_servers")

    return refuse


def _without_eval(original: Callable[..., Any]) -> Callable[..., Any]:
    def resolve_type(annotation: str, *, allow_unsafe_eval: bool = False, extra_globals: Any = None) -> Any:
        del allow_unsafe_eval
        return original(annotation, allow_unsafe_eval=False, extra_globals=extra_globals)

    return resolve_type

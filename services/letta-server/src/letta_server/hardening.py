"""Takes from Letta what its agents need not have: the server's secrets, fetches of addresses in messages, ``eval``.

Each hook replaces one function of Letta's, in this process; no file of Letta's is edited. A hook is written for one
source text of that function and refuses to replace any other, so that another release of Letta stops at the start
instead of running without the hook.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from letta_server.errors import LettaServerError

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
_SOURCES: Final = {
    "_gather_env_vars": "db2586548751184792bb3e065025641d35c7f539e49fe693a2ba08f49607bd04",
    "_fetch_image_from_url": "852f3b6be8635037ff4fb425b81851e5449715437f774772996bba4d571683f4",
    "resolve_type": "91cf3ddb58469f498f2318d77bf5d501e745b5ace41b214307c4027a02a31c97",
}
"""SHA-256 of the source text of each replaced function, as Letta 0.16.8 has it."""


def install() -> None:
    """Install all hooks. Imports parts of Letta.

    Raises:
        LettaServerError: a function is not the one its hook was written for.
    """
    from letta.functions import ast_parsers  # noqa: PLC0415 - not in the workspace's environment
    from letta.helpers import message_helper  # noqa: PLC0415
    from letta.services.tool_sandbox.base import AsyncToolSandboxBase  # noqa: PLC0415

    _replace(AsyncToolSandboxBase, "_gather_env_vars", _without_secrets)
    _replace(message_helper, "_fetch_image_from_url", _refusing_to_fetch)
    _replace(ast_parsers, "resolve_type", _without_eval)


def forbid_inspection() -> None:
    """Close this process's environment and memory to other processes of the same user, which tools are; Linux only.

    Root is not kept out. What was started before keeps its own setting, and so does what is started later.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def tool_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the server's environment that the process of a tool gets."""
    return {name: value for name, value in environment.items() if name in _TOOL_VARIABLES or name.startswith("LC_")}


def _replace(owner: Any, name: str, hook: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    if hashlib.sha256(inspect.getsource(original).encode()).hexdigest() != _SOURCES[name]:
        raise LettaServerError(
            f"Letta's function {name} is not that of Letta 0.16.8, so it cannot be made safe; "
            "install the versions of requirements.lock."
        )
    setattr(owner, name, hook(original))


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


def _without_eval(original: Callable[..., Any]) -> Callable[..., Any]:
    def resolve_type(annotation: str, *, allow_unsafe_eval: bool = False, extra_globals: Any = None) -> Any:
        del allow_unsafe_eval
        return original(annotation, allow_unsafe_eval=False, extra_globals=extra_globals)

    return resolve_type

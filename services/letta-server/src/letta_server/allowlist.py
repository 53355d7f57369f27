"""Lets only the operations pass that this project uses.

Letta serves about 250 documented operations and some more without documentation: running code, managing tools and MCP
servers, forwarding requests to model providers. The bridge and its commands need the few in ``OPERATIONS``.

A path is compared as Letta's router sees it: decoded, and split only at ``/``. Each variable part must begin as Letta's
ids of that kind do, so a literal part such as ``count`` in ``/v1/agents/count`` never passes for an id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from letta_server.asgi import App, Receive, Scope, Send, refuse

OPERATIONS: Final = (
    # Probes. A trailing slash may be absent in every path: Letta redirects to the one spelling it has.
    ("GET", "/v1/health/"),
    ("GET", "/v1/ready/"),
    # Agents.
    ("GET", "/v1/agents/"),
    ("POST", "/v1/agents/"),
    ("GET", "/v1/agents/{agent_id}"),
    ("PATCH", "/v1/agents/{agent_id}"),
    ("DELETE", "/v1/agents/{agent_id}"),
    ("GET", "/v1/tags/"),
    # Turns.
    ("GET", "/v1/agents/{agent_id}/messages"),
    ("POST", "/v1/agents/{agent_id}/messages"),
    ("POST", "/v1/agents/{agent_id}/messages/cancel"),
    ("GET", "/v1/runs/"),
    ("GET", "/v1/runs/{run_id}"),
    ("GET", "/v1/runs/{run_id}/usage"),
    # An agent's memory; operators write blocks and passages by hand where they merge two agents.
    ("GET", "/v1/agents/{agent_id}/core-memory/blocks"),
    ("PATCH", "/v1/agents/{agent_id}/core-memory/blocks/{block_label}"),
    ("PATCH", "/v1/agents/{agent_id}/core-memory/blocks/attach/{block_id}"),
    ("GET", "/v1/agents/{agent_id}/archival-memory"),
    ("POST", "/v1/agents/{agent_id}/archival-memory"),
    ("GET", "/v1/blocks/"),
    ("POST", "/v1/blocks/"),
    ("PATCH", "/v1/blocks/{block_id}"),
    ("DELETE", "/v1/blocks/{block_id}"),
    ("GET", "/v1/blocks/{block_id}/agents"),
    ("GET", "/v1/archives/"),
    ("POST", "/v1/archives/"),
    ("GET", "/v1/archives/{archive_id}"),
    ("DELETE", "/v1/archives/{archive_id}"),
    ("GET", "/v1/archives/{archive_id}/agents"),
    ("POST", "/v1/archives/{archive_id}/passages"),
    ("POST", "/v1/archives/{archive_id}/passages/batch"),
    ("PATCH", "/v1/agents/{agent_id}/archives/attach/{archive_id}"),
    # Export, backup and restore of whole agents.
    ("GET", "/v1/agents/{agent_id}/export"),
    ("POST", "/v1/agents/import"),
    ("POST", "/v1/agents/{agent_id}/recompile"),
    ("GET", "/v1/conversations/"),
    ("GET", "/v1/conversations/{conversation_id}"),
    ("PATCH", "/v1/conversations/{conversation_id}"),
    ("POST", "/v1/conversations/default/fork"),
    # Checks: which models there are, and whether Letta has a Redis for its locks.
    ("GET", "/v1/models/"),
    ("GET", "/v1/models/embedding"),
    ("POST", "/v1/conversations/default/stream"),
)
"""Methods and paths, spelled as in Letta's OpenAPI document."""

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_VARIABLES: Final = {
    "agent_id": "agent-[^/]+",
    "archive_id": "archive-[^/]+",
    "block_id": "block-[^/]+",
    "block_label": "[^/]+",
    "conversation_id": "conv-[^/]+",
    "run_id": "run-[^/]+",
}
"""The pattern of each variable part. Letta itself checks ids beyond their beginning."""
_REFUSAL: Final = (
    b'{"detail":"letta-server serves only the operations of Letta\'s API that the bridge uses, and this is none of '
    b"them: to use an editor (ADE) or another client of Letta, set LETTA_SERVER_FULL_API=true for letta-server and "
    b'start it again."}'
)


class AllowlistMiddleware:
    """Answers 403 to every request but those for ``OPERATIONS``.

    Args:
        app: gets the other requests unchanged, and its answers are not touched.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or allowed(scope):
            await self._app(scope, receive, send)
        else:
            await refuse(scope, send, status=403, body=_REFUSAL)


def allowed(scope: Scope) -> bool:
    """Whether a request is for one of ``OPERATIONS``."""
    # A root path would let the router see another path than this one.
    if scope["type"] != "http" or scope.get("root_path"):
        return False
    pattern = _PATTERNS.get(scope["method"])
    return pattern is not None and pattern.fullmatch(scope["path"]) is not None


def _pattern(paths: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(_path_pattern, paths)))


def _path_pattern(path: str) -> str:
    parts = _VARIABLE.split(path.removesuffix("/"))  # literals and variables take turns
    return "".join(_VARIABLES[part] if index % 2 else re.escape(part) for index, part in enumerate(parts)) + "/?"


_PATTERNS: Final = {
    method: _pattern(path for its_method, path in OPERATIONS if its_method == method)
    for method in {method for method, _ in OPERATIONS}
}

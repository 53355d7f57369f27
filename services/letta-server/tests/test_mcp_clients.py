"""Letta's clients of MCP work with the locked mcp and fastmcp, which are later than those Letta was released with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

_PROGRAM: Final = """
import asyncio, contextlib, json, socket
from fastmcp import FastMCP
from letta.functions.mcp_client.types import MCPServerType, StreamableHTTPServerConfig
from letta.services.mcp.fastmcp_client import AsyncFastMCPStreamableHTTPClient
from letta.services.mcp.streamable_http_client import AsyncStreamableHTTPMCPClient

server = FastMCP("calculator")

@server.tool
def add(a: int, b: int) -> int:
    return a + b

async def used(kind, config):
    client = kind(config)
    await client.connect_to_server()
    tools = [tool.name for tool in await client.list_tools()]
    answer = await client.execute_tool("add", {"a": 1, "b": 2})
    await client.cleanup()
    return tools, answer

async def main():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = asyncio.create_task(
        server.run_async(transport="streamable-http", host="127.0.0.1", port=port, show_banner=False)
    )
    for _ in range(600):
        with contextlib.suppress(OSError):
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
            break
        await asyncio.sleep(0.1)
    # Letta's own check refuses addresses of this host.
    config = StreamableHTTPServerConfig.model_construct(
        server_name="calculator", server_url=f"http://127.0.0.1:{port}/mcp", type=MCPServerType.STREAMABLE_HTTP,
        auth_header=None, auth_token=None, custom_headers=None,
    )
    outcome = [await used(kind, config) for kind in (AsyncFastMCPStreamableHTTPClient, AsyncStreamableHTTPMCPClient)]
    print("OUTCOME" + json.dumps(outcome), flush=True)
    running.cancel()

with contextlib.suppress(asyncio.CancelledError):
    asyncio.run(main())
"""


def test_tools_of_an_mcp_server_are_listed_and_called(run_with_letta: Callable[..., Any], tmp_path: Path) -> None:
    ran = run_with_letta(_PROGRAM, tmp_path)
    outcome = [line.removeprefix("OUTCOME") for line in ran.stdout.splitlines() if line.startswith("OUTCOME")]
    assert outcome, ran.stderr
    assert json.loads(outcome[0]) == [[["add"], ["3", True]]] * 2

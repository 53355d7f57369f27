"""Serve a web application on the loopback address."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from local_stack.ports import HOST

_SHUTDOWN_SECONDS = 0.1
"""For requests that are still at work when the server ends."""


@asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serve inside the block; gives the base URL. Port 0 takes a free one.

    A request whose client has left is worked on to its end, which ``aiohttp.test_utils.TestServer`` would cancel.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, backlog=4096).start()
        address = runner.addresses[0]
        yield f"http://{address[0]}:{address[1]}"
    finally:
        await runner.cleanup()


async def serve(app: web.Application, port: int) -> None:
    """Print the address once it is served, and serve until the process is killed."""
    async with serving(app, port) as url:
        sys.stdout.write(f"ready {url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

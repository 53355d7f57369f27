"""Serves a web application of this package on the loopback address, until the process is killed."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from local_stack.ports import HOST


async def serve(app: web.Application, port: int) -> None:
    """Print the address once it is served; port 0 takes a free one."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, backlog=4096).start()
    address = runner.addresses[0]
    sys.stdout.write(f"ready http://{address[0]}:{address[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()

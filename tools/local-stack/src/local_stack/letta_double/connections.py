"""Closes connections early: before, while and after Letta works, and during its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from local_stack.letta_double.dials import CUTS, Dial, Dials

BEGAN: Final = web.RequestKey("began", str)
"""When a request came, as ISO time: what is made for it has this time, however late it is made."""
DIAL: Final = web.RequestKey("dial", Dial)
"""The fault that strikes a request; one without a mode where none does."""


def cutting(dials: Dials, operations: Mapping[tuple[str, str], str]) -> Middleware:
    """A middleware that draws each request's fault, and carries out those that concern its connection.

    Args:
        dials: the faults.
        operations: method and path, without a slash at its end → the operation.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.text()
        request[BEGAN] = datetime.now(UTC).isoformat()
        resource = request.match_info.route.resource
        path = resource.canonical.rstrip("/") if resource else ""
        dial = request[DIAL] = dials.take(operations.get((request.method, path), ""), body)
        transport = request.transport
        if dial.mode not in CUTS or transport is None:
            return await handler(request)
        if dial.mode in {"cut-request", "cut-working"}:
            transport.abort()
        if dial.mode == "cut-request":
            return web.Response()
        if dial.mode == "cut-working":
            await asyncio.sleep(dial.seconds)
        response = await handler(request)
        if dial.mode == "cut-answer" and isinstance(response, web.Response) and isinstance(response.body, bytes):
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(response.body)}\r\n\r\n"
            transport.write(head.encode() + response.body[: len(response.body) // 2])
            transport.close()
        elif dial.mode == "cut":
            transport.abort()
        return response

    return middleware

"""An HTTP proxy before a real Letta that loses connections on demand, as the double does by itself.

``python -m bridge_chaos.letta_gate --port 0 --target URL`` prints ``ready http://127.0.0.1:PORT``. Faults are dialled
in with ``POST /control``; see `letta_double.dials`. A request goes on at the target when its client is gone. Where the
target is gone, the client's connection is lost as well: the gate itself never has an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from local_stack.letta_double.connections import DIAL, cutting
from local_stack.letta_double.dials import OPERATIONS, Dial, Dials
from local_stack.letta_double.process import Dialled
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import answers, environment
from local_stack.serving import serve

_LARGEST_REQUEST: Final = 256 * 2**20
_HOP_BY_HOP: Final = frozenset({"host", "content-length", "connection", "transfer-encoding", "accept-encoding"})
_FORWARDED_HEADERS: Final = frozenset({"location", "retry-after"})
"""Headers of an answer that mean something to its reader."""


class LettaGate(Process, Dialled):
    """The proxy as a process.

    Args:
        target: the real server's base URL.
        logs: directory of its log file.
    """

    def __init__(self, target: str, *, logs: Path) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        super().__init__(
            "letta-gate",
            [sys.executable, "-m", "bridge_chaos.letta_gate", "--port", str(port), "--target", target],
            logs=logs,
            environment=environment(),
            ready=answers(f"{self.url}/seen"),
        )


class Gate:
    """The proxy's server side.

    Args:
        target: where requests go.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._dials = Dials()

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(middlewares=[cutting(self._dials, OPERATIONS)], client_max_size=_LARGEST_REQUEST)
        app.router.add_post("/control", self._control)
        app.router.add_delete("/control", self._heal)
        app.router.add_get("/seen", self._seen)
        for method, path in OPERATIONS:
            for spelling in (path, f"{path}/"):
                app.router.add_route(method, spelling, self._forward)
        app.router.add_route("*", "/{rest:.*}", self._forward)
        return app

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._forwarded(request)
        except aiohttp.ClientError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _forwarded(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.request(
                request.method,
                self._target + request.raw_path,
                data=await request.read(),
                headers=headers,
                allow_redirects=False,
            ) as answer,
        ):
            if answer.content_type == "text/event-stream" and request[DIAL].mode != "cut":
                return await _relayed(request, answer)
            kept = {name: value for name, value in answer.headers.items() if name.lower() in _FORWARDED_HEADERS}
            return web.Response(
                body=await answer.read(),
                status=answer.status,
                headers=kept | {"Content-Type": answer.headers.get("Content-Type", "application/json")},
            )

    async def _control(self, request: web.Request) -> web.Response:
        self._dials.set(Dial(**await request.json()))
        return web.json_response({})

    async def _heal(self, _request: web.Request) -> web.Response:
        self._dials.clear()
        return web.json_response({})

    async def _seen(self, _request: web.Request) -> web.Response:
        return web.json_response({"struck": self._dials.struck})


async def _relayed(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Pass a stream on as it comes, and read it to its end when the client is gone."""
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]})
    await response.prepare(request)
    gone = False
    async for chunk in answer.content.iter_any():
        if request[DIAL].mode == "cut-answer" and b"assistant_message" in chunk and request.transport is not None:
            request.transport.abort()
        try:
            if not gone:
                await response.write(chunk)
        except OSError:
            gone = True
    return response


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--target", required=True, help="the server's base URL")
    args = parser.parse_args()
    asyncio.run(serve(Gate(args.target).app(), args.port))


if __name__ == "__main__":
    main()

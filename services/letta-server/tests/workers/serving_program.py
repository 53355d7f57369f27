"""A server with workers and without Letta: ``serving_program.py WORKERS PORT [NAME=VALUE …]``.

Answers JSON to ``GET /who``, ``/slow`` (until ``/release``'s file is there), ``/hang``, ``/begin/ID`` and ``/ended``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from letta_server import launch
from letta_server.workers import supervisor
from letta_server.workers.channel import Channel
from letta_server.workers.worker import Worker

FOLDER = Path.cwd()


class Log:
    """Each event as a line of JSON."""

    def _write(self, event: str, **fields: Any) -> None:
        os.write(1, f"{json.dumps({'event': event, **fields})}\n".encode())

    info = warning = error = _write


class App:
    """The application of one worker."""

    def __init__(self, number: int, channel: Channel) -> None:
        self._number = number
        self._channel = channel
        self._ended: list[str] = []
        self.worker = Worker(channel, self._end, ready=lambda: None)

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        body = json.dumps(await self._answer(scope["path"])).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, path: str) -> Any:
        match path.split("/")[1:]:
            case ["slow"]:
                (FOLDER / f"slow-{self._number}").touch()
                while not (FOLDER / "release").exists():
                    await asyncio.sleep(0.01)
            case ["hang"]:
                time.sleep(3600)  # noqa: ASYNC251 - that is the point
            case ["begin", run_id]:
                self._channel.tell("begun", run_id)
            case ["ended"]:
                return self._ended
        return {"worker": self._number, "pid": os.getpid(), "serving": self.worker.serving}

    def _end(self, run_id: str) -> None:
        self._ended.append(run_id)
        self._channel.tell("missing" if run_id == "lost" else "ended", run_id)


def work(number: int, channel: Channel) -> int:
    launch.exit_cleanly_when_stopped()
    if (FOLDER / f"refuse-{number}").exists():
        return 3
    app = App(number, channel)

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            app.worker.attach(self)
            await super().startup(sockets)
            app.worker.begin()

        async def shutdown(self, sockets: Any = None) -> None:
            app.worker.end()
            await super().shutdown(sockets)

    config = uvicorn.Config(app, loop="asyncio", http="h11", lifespan="off", log_config=None, timeout_keep_alive=60)
    with contextlib.suppress(SystemExit, KeyboardInterrupt):
        Server(config).run(sockets=[])
    return 0


def main() -> int:
    for change in sys.argv[3:]:
        name, value = change.split("=")
        setattr(supervisor, name, float(value))
    listener = launch.reserve("127.0.0.1", int(sys.argv[2]))
    port = listener.getsockname()[1]
    keeper = supervisor.Supervisor(listener, int(sys.argv[1]), work, grace=20, reserve=launch.reserve, log=Log())
    return keeper.run(lambda: Log().info("started", port=port))


if __name__ == "__main__":
    sys.exit(main())

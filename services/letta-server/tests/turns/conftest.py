"""A model that tells its connections apart, for Letta and for programs in Letta's environment."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest

_PAUSE_BEFORE_THE_END_SECONDS: Final = 0.02
_USAGE: Final = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_NAMED: Final = {"id": "c-1", "created": 0, "model": "gpt-4o-mini"}


@dataclass
class Connection:
    """What came over one connection."""

    keys: list[str] = field(default_factory=list)
    """The Authorization header of each call."""
    cookies: list[str] = field(default_factory=list)
    ended: bool = False


class CountingModel:
    """An OpenAI-compatible endpoint that says what the last message said, at once, and keeps connections open.

    The end of a streamed answer comes a moment after its last event. Each answer sets a cookie.

    Attributes:
        bodies: of all calls.
        connections: those that carried calls, in the order of their first call.
        hang_up: the number of calls a connection answers; at the next one it closes without an answer.
        answer_count: how often each answer is sent.
        surplus: bytes that are sent after each answer.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.connections: list[Connection] = []
        self.hang_up: int | None = None
        self.answer_count = 1
        self.surplus = b""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def calls(self) -> int:
        """All calls that came, answered or not."""
        return sum(len(connection.keys) for connection in self.connections)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer and its surplus arrive together

    def __init__(self, model: CountingModel, *arguments: Any) -> None:
        self._model = model
        self._connection: Connection | None = None
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "gpt-4o-mini", "object": "model", "created": 0}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._model.bodies.append(asked)
        seen = self._seen()
        seen.keys.append(self.headers["Authorization"])
        seen.cookies += self.headers.get_all("Cookie", [])
        if self._model.hang_up is not None and len(seen.keys) > self._model.hang_up:
            self.close_connection = True
        elif self.path.endswith("/embeddings"):
            vector = {"object": "embedding", "embedding": [0.1] * 8}
            vectors = [{**vector, "index": number} for number in range(len(asked["input"]))]
            self._answer({"object": "list", "data": vectors, "model": "m", "usage": _USAGE})
        elif asked.get("stream"):
            self._stream()
        else:
            said = asked["messages"][-1]["content"]
            message = {"role": "assistant", "content": said if isinstance(said, str) else "hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._answer({**_NAMED, "object": "chat.completion", "choices": [choice], "usage": _USAGE})

    def finish(self) -> None:
        super().finish()
        if self._connection is not None:
            self._connection.ended = True

    def log_message(self, *_: object) -> None:
        pass

    def _seen(self) -> Connection:
        if self._connection is None:
            self._connection = Connection()
            self._model.connections.append(self._connection)
        return self._connection

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        for _ in range(self._model.answer_count):
            self._head("application/json", ("Content-Length", str(len(content))))
            self.wfile.write(content)
        self.wfile.write(self._model.surplus)

    def _stream(self) -> None:
        self._head("text/event-stream", ("Transfer-Encoding", "chunked"))
        delta: dict[str, Any] = {"role": "assistant", "content": "hello"}
        said: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
        last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}
        for choice in (said, last):
            self._event(json.dumps({**_NAMED, "object": "chat.completion.chunk", "choices": [choice]}))
        self._event("[DONE]")
        self.wfile.flush()
        time.sleep(_PAUSE_BEFORE_THE_END_SECONDS)
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def _head(self, kind: str, length: tuple[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Set-Cookie", "session=1; Path=/")
        self.send_header(*length)
        self.end_headers()


@pytest.fixture
def counting_model() -> Iterator[CountingModel]:
    model = CountingModel()
    yield model
    model.close()

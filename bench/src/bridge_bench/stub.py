"""A Letta stub that answers at once, or after a set time, and is fast enough never to be the bottleneck.

It stands beside the double of Letta in ``local_stack.letta_double`` because that one, on aiohttp and SQLite, answers
less than a thousand turns a second and would be what a benchmark measures; both give answers of one shape.

``python -m bridge_bench.stub --port 8283 --latency 0.05``. HTTP is read by hand on uvloop: of a request only the first
line, the length and the body's end are looked at. Every turn gets the same text, in about 1 KB shaped as Letta's
answers, with an id of its own. A turn that asks for a stream gets it as events of one word each, all at once.

With ``--tokens-per-second 30`` a streamed turn says what is in ``spoken``, at that pace. Turns begin to speak at
different moments within the time of one token, as they do where many people talk at different times.

With ``--remember`` turns are kept by agent and can be found again by their otid, as in Letta, also those whose caller
went away in the middle; that costs some speed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import uvloop

from bridge_bench import spoken
from local_stack.letta_double.answers import health, turn_answer

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_TEXT: Final = "You told me the first tomatoes were still green last week. I am glad they have turned red since then."
_ANSWER: Final = turn_answer(
    [
        {
            "id": "message-5b2b1c5e-0000-4000-8000-000000000001",
            "date": "2026-01-01T00:00:00+00:00",
            "message_type": "reasoning_message",
            "reasoning": "The user speaks of the garden. I look at what I know: tomatoes, green, last week. " * 5,
            "run_id": "run-5b2b1c5e-0000-4000-8000-000000000003",
        },
        {
            "id": "message-5b2b1c5e-0000-4000-8000-000000000002",
            "date": "2026-01-01T00:00:00+00:00",
            "message_type": "assistant_message",
            "content": _TEXT,
            "run_id": "run-5b2b1c5e-0000-4000-8000-000000000003",
        },
    ]
)


def _response(content: object) -> bytes:
    return _head(json.dumps(content).encode(), b"application/json")


def _head(body: bytes, kind: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


def _event(event: object) -> bytes:
    return b"data: %s\n\n" % json.dumps(event).encode()


_SAID: Final = _ANSWER["messages"][1]
_BEGIN: Final = _event({"message_type": "ping", "run_id": _SAID["run_id"]})
_END: Final = b"".join(
    (
        _event(_ANSWER["stop_reason"]),
        _event({"message_type": "usage_statistics", **_ANSWER["usage"]}),
        b"data: [DONE]\n\n",
    )
)


def _events() -> Iterator[bytes]:
    """The events of a streamed turn; the message's id is to be given the number of the turn."""
    yield _BEGIN
    for word in re.findall(r"\s*\S+", _TEXT):
        yield _event({**_SAID, "content": word})
    yield _END


_TURN: Final = _response(_ANSWER).replace(b"000000000002", b"%012d")
"""To be given the number of the turn."""
_STREAMED_TURN: Final = _head(b"".join(_events()), b"text/event-stream").replace(b"000000000002", b"%(turn)012d")
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_PHASE: Final = 0.6180339887
"""Multiples of the golden ratio spread evenly, however many there are."""
_STREAMING: Final = b'"streaming":true'
"""How the bridge writes it."""


class StubLetta:
    """Agents by their tags; every turn gets the same text.

    Args:
        latency: seconds before a turn answers, or begins to.
        pace: seconds from one token of a streamed turn to the next; 0 sends all at once.
        remember: keep turns by agent.
    """

    def __init__(self, latency: float, pace: float, *, remember: bool) -> None:
        self.latency = latency
        self.pace = pace
        self.remember = remember
        self.turns = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._agents: dict[str, dict[str, Any]] = {}
        self._histories: dict[str, list[dict[str, Any]]] = {}

    def begin(self) -> None:
        """Called when a turn arrives."""
        self.turns += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def end(self, path: str, body: bytes) -> None:
        """Called when a turn ends; ``body`` is its request if turns are remembered."""
        self.in_flight -= 1
        if self.remember:
            run = f"run-{uuid.uuid4()}"
            asked = {"message_type": "user_message", **json.loads(body)["messages"][-1]}
            said = {"message_type": "assistant_message", "content": _TEXT}
            history = self._histories.setdefault(path, [])
            history += [{"id": f"message-{uuid.uuid4()}", "run_id": run, **message} for message in (asked, said)]

    def other(self, method: str, target: str, body: bytes) -> object:
        """The answer to all requests except turns."""
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        path = parts.path.rstrip("/")
        if path == "/v1/health":
            return health("stub")
        if path == "/stats":
            seen = {"turns": self.turns, "in_flight": self.in_flight, "most_in_flight": self.most_in_flight}
            self.most_in_flight = self.in_flight
            return seen
        if path == "/v1/agents":
            return self._made(json.loads(body)) if method == "POST" else self._found(query.get("tags", []))
        if path.endswith("/messages"):
            return [] if "before" in query else self._histories.get(path, [])
        return []  # runs: none is active

    def _found(self, tags: list[str]) -> list[dict[str, Any]]:
        return [agent for agent in self._agents.values() if set(tags) <= set(agent["tags"])]

    def _made(self, spec: dict[str, Any]) -> dict[str, Any]:
        agent = {"id": f"agent-{uuid.uuid4()}", "name": spec["name"], "tags": spec.get("tags", [])}
        self._agents[agent["id"]] = agent
        return agent


class _Connection(asyncio.Protocol):
    def __init__(self, letta: StubLetta) -> None:
        self._letta = letta
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._speaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a TCP server it is one

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(_HEAD_END)) >= 0:
            head = self._buffer[:end]
            place = head.lower().find(_LENGTH)
            length = int(head[place + len(_LENGTH) :].split(b"\r", 1)[0]) if place >= 0 else 0
            whole = end + len(_HEAD_END) + length
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[whole - length : whole], self._buffer[whole:]
            self._requested(head, body)

    def _requested(self, head: bytes, body: bytes) -> None:
        method, target, _ = head.split(b" ", 2)
        letta = self._letta
        if method != b"POST" or not target.endswith(b"/messages"):
            self._write(_response(letta.other(method.decode(), target.decode(), body)))
            return
        letta.begin()
        if letta.latency:
            asyncio.get_running_loop().call_later(letta.latency, self._answer, target.decode(), body)
        else:
            self._answer(target.decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if self._letta.pace and _STREAMING in body:
            self._speaking = asyncio.create_task(self._speak(path, body))
            return
        self._letta.end(path, body)
        number = self._letta.turns
        self._write(_STREAMED_TURN % {b"turn": number} if _STREAMING in body else _TURN % number)

    async def _speak(self, path: str, body: bytes) -> None:
        """A streamed turn, token by token, until its caller goes away."""
        pace, number = self._letta.pace, self._letta.turns
        message = {**_SAID, "id": f"message-{uuid.uuid4()}"}
        loop = asyncio.get_running_loop()
        begin = loop.time() + pace * (number * _PHASE % 1)
        self._write(_STREAM_HEAD + _chunk(_BEGIN))
        for place, token in enumerate(spoken.TOKENS):
            await asyncio.sleep(begin + place * pace - loop.time())
            if self._transport is None:
                break
            content = token.format(spoken.in_letters(time.monotonic()))
            self._write(_chunk(_event({**message, "content": content})))
        self._letta.end(path, body)
        self._write(_chunk(_END) + _LAST_CHUNK)

    def _write(self, response: bytes) -> None:
        if self._transport is not None:
            self._transport.write(response)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _serve(port: int, letta: StubLetta) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(letta), "127.0.0.1", port, backlog=16_384)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that a turn takes")
    parser.add_argument(
        "--tokens-per-second", type=float, default=0.0, help="the pace of streamed turns; 0 sends them at once"
    )
    parser.add_argument("--remember", action="store_true", help="keep turns, so that they can be found")
    args = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pace = 1 / args.tokens_per_second if args.tokens_per_second else 0.0
    uvloop.run(_serve(args.port, StubLetta(args.latency, pace, remember=args.remember)))


if __name__ == "__main__":
    main()

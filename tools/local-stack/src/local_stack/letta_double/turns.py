"""A turn in the double of Letta: when messages are stored, and how the answer is sent."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiohttp import web

from local_stack.letta_double.answers import turn_answer
from local_stack.letta_double.dials import Dial
from local_stack.letta_double.store import LettaStore
from local_stack.letta_double.streams import TurnStream

REFUSALS: Final[Mapping[int, Any]] = {
    401: {"detail": "Unauthorized"},
    409: {"detail": "CONFLICT: Cannot send a new message: Another request is being processed (CONVERSATION_BUSY)"},
    429: {"error": {"type": "llm_rate_limit", "message": "slow down", "detail": "RATE_LIMIT_EXCEEDED"}},
    500: {"error": {"type": "llm_error", "message": "no", "detail": "INTERNAL_SERVER_ERROR"}},
}
"""Status → what Letta says with it."""
_LATE_SHARE: Final = 0.75
"""Part of a turn after which its run is listed, where that is late."""
_repeated_later: Final[WeakKeyDictionary[asyncio.Transport, bytes]] = WeakKeyDictionary()
"""Answers to be sent again, after the next request on their connection."""


@dataclass(frozen=True)
class Pace:
    """How long things take.

    Attributes:
        latency: seconds of a step of a turn.
        run_lag: seconds until the run of a turn is listed.
        gather: turns that have to be at work at once before the first is answered.
    """

    latency: float = 0.0
    run_lag: float = 0.0
    gather: int = 1


class Turns:
    """Turns at work.

    Args:
        store: where they are stored.
        pace: how long things take.
    """

    def __init__(self, store: LettaStore, pace: Pace) -> None:
        self._store = store
        self._pace = pace
        self._gathered = asyncio.Event()
        self.begun = 0
        self.at_work = 0
        """In this process."""
        self.most_at_work = 0

    async def run(
        self, agent_id: str, request: Mapping[str, Any], dial: Dial, stream: TurnStream | None = None
    ) -> list[dict[str, Any]] | None:
        """Process a request and return the stored answer; None if Letta refuses it, at once or at a later step.

        Raises TurnStopped if a turn with a stream was cancelled.
        """
        self.begun += 1
        if dial.mode == "status":
            return None
        run_id = LettaStore.new_run_id()
        late = dial.seconds * _LATE_SHARE if dial.mode == "late_run" else self._pace.run_lag
        listing = asyncio.get_running_loop().call_later(late, self._store.begin_run, agent_id, run_id, request)
        try:
            with self._working(agent_id):
                if stream is not None:
                    self._store.begin_run(agent_id, run_id, request)
                    await stream.begin(run_id)
                await self._gathered.wait()
                answer = await self._answer(agent_id, run_id, request["messages"], dial, stream)
        finally:
            listing.cancel()
        self._store.begin_run(agent_id, run_id, request)  # a turn that took less than the run's lag
        self._store.end_run(run_id, "failed" if answer is None else "completed", stop_reason(dial))
        return answer

    @contextmanager
    def _working(self, agent_id: str) -> Iterator[None]:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        if self.at_work >= self._pace.gather:
            self._gathered.set()
        work = self._store.begin_work(agent_id)
        try:
            yield
        finally:
            self._store.end_work(work)
            self.at_work -= 1

    async def _answer(
        self,
        agent_id: str,
        run_id: str,
        messages: Sequence[Mapping[str, Any]],
        dial: Dial,
        stream: TurnStream | None,
    ) -> list[dict[str, Any]] | None:
        text = dial.text if dial.mode == "text" else f"echo: {messages[-1]['content']}"
        said = {"role": "assistant", "content": text}
        if dial.mode == "hold":
            await dial.over.wait()
        await asyncio.sleep(self._pace.latency + (dial.seconds if dial.mode in {"hang", "late_run"} else 0.0))
        if dial.mode in {"tool", "late_status"}:
            call = {"role": "tool_call_message", "content": "memory_insert"}
            if stream is not None:
                await stream.use_tool(run_id)
            self._store.store_step(agent_id, run_id, [*messages, call])
            messages = []
            await asyncio.sleep(max(dial.seconds, self._pace.latency))
        if dial.mode in {"late_status", "failed"}:
            return None
        if dial.mode == "empty":
            self._store.store_step(agent_id, run_id, messages)
            return []
        if stream is not None:
            await stream.say(run_id, text)
        self._store.store_step(agent_id, run_id, [*messages, said])
        if stream is not None:
            await stream.stored(run_id)
        return [{"id": f"message-{uuid.uuid4()}", "message_type": "assistant_message", "content": text}]


def stop_reason(dial: Dial) -> str:
    return "max_tokens_exceeded" if dial.mode == "length" else "end_turn"


def refusal(dial: Dial) -> Any:
    """What Letta says where it refuses a turn."""
    return REFUSALS.get(dial.code, REFUSALS[500]) if dial.body is None else dial.body


async def answer_to(request: web.Request, dial: Dial, answer: Sequence[Mapping[str, Any]]) -> web.StreamResponse:
    """Send a turn's answer, whole or as the fault requires."""
    body = json.dumps(turn_answer(answer, stop_reason(dial))).encode()
    transport = request.transport
    if transport is not None:
        transport.write(_repeated_later.pop(transport, b""))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if dial.mode == "twice":
            # The first of two: the ordinary one follows it on the same connection.
            transport.write(head.encode() + body)
        elif dial.mode == "twice_late":
            _repeated_later[transport] = head.encode() + body
    if dial.mode == "drip":
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        pause = dial.seconds / len(body)
        for byte in body:
            await response.write(bytes([byte]))
            await asyncio.sleep(pause)
        return response
    return web.Response(body=body, content_type="application/json")

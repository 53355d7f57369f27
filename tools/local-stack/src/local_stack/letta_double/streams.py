"""The events of a streamed turn, as Letta sends them."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from local_stack.letta_double.answers import USAGE
from local_stack.letta_double.dials import Dial
from local_stack.letta_double.store import LettaStore

_PIECE: Final = re.compile(r".{1,8}", re.DOTALL)
_TOOL: Final = "memory_insert"


class TurnStopped(Exception):
    """The run was cancelled, and the stream with it: the step is not stored."""


class TurnStream:
    """Speaks one turn to its client, and goes on in silence when that is gone.

    Args:
        request: the client's.
        dial: the fault that strikes it.
        store: which knows of cancelled runs.
        pace: seconds between two pieces of the text.
    """

    def __init__(self, request: web.Request, dial: Dial, store: LettaStore, pace: float) -> None:
        self._request = request
        self._dial = dial
        self._store = store
        self._pace = pace
        self._response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        self._silent = False

    async def begin(self, run_id: str) -> None:
        """The head, and the first ping, which names the run."""
        try:
            await self._response.prepare(self._request)
        except OSError:
            self._silent = True
        await self._message("ping", run_id)
        self._silent |= self._dial.mode == "cut"

    async def use_tool(self, run_id: str) -> None:
        """A tool's call and return."""
        call = {"name": _TOOL, "arguments": "{}", "tool_call_id": f"call-{uuid.uuid4()}"}
        await self._message("tool_call_message", run_id, tool_call=call, tool_calls=call)
        returned = {"tool_call_id": call["tool_call_id"], "status": "success", "tool_return": ""}
        await self._message("tool_return_message", run_id, name=_TOOL, tool_returns=[returned], **returned)

    async def say(self, run_id: str, text: str) -> None:
        """The agent's text. Raises TurnStopped where the run was cancelled before its end."""
        message_id, pieces = f"message-{uuid.uuid4()}", _PIECE.findall(text)
        pace = self._dial.seconds / max(1, len(pieces)) if self._dial.mode == "drip" else self._pace
        for number, piece in enumerate(pieces):
            if pace:
                await asyncio.sleep(pace)
                await self._stop_if_cancelled(run_id)
            if self._dial.mode == "cut-answer" and number >= len(pieces) // 2:
                self._cut()
            await self._message("assistant_message", run_id, message_id=message_id, content=piece)

    async def stored(self, run_id: str) -> None:
        """The pause after the last piece. Raises TurnStopped where the run is cancelled: too late for the answer."""
        if self._pace:
            await asyncio.sleep(self._pace)
            await self._stop_if_cancelled(run_id)

    async def end(self, stop_reason: str) -> web.StreamResponse:
        """The end of an answered turn."""
        await self._write({"message_type": "stop_reason", "stop_reason": stop_reason})
        await self._write({"message_type": "usage_statistics", **USAGE})
        return await self._close()

    async def refuse(self, body: Mapping[str, Any]) -> web.StreamResponse:
        """The end of a turn that failed; ``body`` is what Letta answers to one that is not streamed."""
        error = body.get("error", {})
        told = {
            "error_type": error.get("type", "internal_error"),
            "message": error.get("message", ""),
            "detail": error.get("detail", body.get("detail")),
        }
        await self._write({"message_type": "stop_reason", "stop_reason": "llm_api_error"})
        await self._write({"message_type": "error_message", "run_id": "", **told}, name="error")
        return await self._close()

    async def _close(self) -> web.StreamResponse:
        if not self._silent:
            await self._send(b"data: [DONE]\n\n")
        return await self.over()

    async def over(self) -> web.StreamResponse:
        """The end of the stream, without an event."""
        if not self._silent:
            try:
                await self._response.write_eof()
            except OSError:
                self._silent = True
        return self._response

    async def _stop_if_cancelled(self, run_id: str) -> None:
        run = self._store.run(run_id)
        if run is not None and run["status"] == "cancelled":
            await self._write({"message_type": "stop_reason", "stop_reason": "cancelled"})
            raise TurnStopped

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.close()
        self._silent = True

    async def _message(self, kind: str, run_id: str, *, message_id: str | None = None, **content: object) -> None:
        message = message_id or f"message-{uuid.uuid4()}"
        await self._write({"id": message, "message_type": kind, "run_id": run_id, **content})

    async def _write(self, content: Mapping[str, object], *, name: str = "") -> None:
        event = f"event: {name}\n" if name else ""
        if not self._silent:
            await self._send(f"{event}data: {json.dumps(content)}\n\n".encode())

    async def _send(self, event: bytes) -> None:
        try:
            await self._response.write(event)
        except OSError:
            self._silent = True

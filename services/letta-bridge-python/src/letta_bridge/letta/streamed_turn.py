"""Puts the events of a streamed turn together to the answer that Letta gives to a turn that is not streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from letta_bridge.errors import LettaError, OutcomeUnknown, TurnCancelled
from letta_bridge.letta.answer import SEND_MESSAGE, content_text, sent_by_tool, tool_returns, turn_answer
from letta_bridge.letta.failures import refusal_in_stream
from letta_bridge.letta.port import ToolState, TurnAnswer, TurnListener
from shared_utils.llm.server_sent_events import ServerSentEvent
from shared_utils.text import read_json

_DONE: Final = b"[DONE]"
_CANCELLED: Final = "cancelled"
_ERROR: Final = "error"
_ERROR_MESSAGE: Final = "error_message"
_USUAL: Final = frozenset({"", "message"})
"""Names of events that carry messages."""

_Message = Mapping[str, object]


@dataclass(slots=True)
class _Said:
    """An assistant message, piece by piece."""

    pieces: list[str] = field(default_factory=list)

    def whole(self) -> _Message:
        return {"message_type": "assistant_message", "content": "".join(self.pieces)}


@dataclass(slots=True)
class _Call:
    """A tool call, piece by piece: its name comes first, its arguments are JSON that may be cut anywhere."""

    call_id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def whole(self) -> _Message:
        call = {"name": self.name, "tool_call_id": self.call_id, "arguments": "".join(self.arguments)}
        return {"message_type": "tool_call_message", "tool_call": call}


class StreamedTurn:
    """One turn, while its events arrive.

    Args:
        listener: hears them.
    """

    def __init__(self, listener: TurnListener) -> None:
        self._listener = listener
        self._messages: list[_Said | _Call | _Message] = []
        self._said: dict[str, _Said] = {}
        self._calls: dict[str, _Call] = {}
        self._latest_call: _Call | None = None
        self._reported: set[tuple[str, ToolState]] = set()
        self._run_id = ""
        self._stop_reason: object = None
        self._usage: object = None
        self._error: Mapping[str, object] | None = None
        self._cancelled = False
        self._damaged = False
        """An event was no JSON, so the text that was heard may have a hole."""
        self.ended = False
        """Letta has said that nothing more comes."""

    def hear(self, event: ServerSentEvent) -> None:
        """Take the next event. What is unknown is skipped."""
        name, data = event
        if data == _DONE:
            self.ended = True
            return
        if name == _CANCELLED:
            self._cancelled = True
        try:
            message = read_json(data)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._damaged |= name in _USUAL
        elif name == _ERROR or message.get("message_type", "error" in message and _ERROR_MESSAGE) == _ERROR_MESSAGE:
            self._error = message
        elif name in _USUAL:
            self.take(message)

    def take(self, message: _Message) -> None:
        """Take a message, or a piece of one."""
        kind = message.get("message_type")
        run_id = message.get("run_id")
        if not self._run_id and isinstance(run_id, str) and run_id:
            self._run_id = run_id
            self._listener.run(run_id)
        taken = self._KINDS.get(kind) if isinstance(kind, str) else None
        if taken is not None:
            taken(self, message)

    def finish(self, *, sent: tuple[str, ...] = ()) -> TurnAnswer:
        """The answer, once the stream has ended.

        Args:
            sent: texts of the request, which no error may quote.

        Raises:
            TurnCancelled: the run was cancelled.
            OutcomeUnknown: the connection was lost before the end, or Letta failed.
            LettaRejected: Letta or its model's provider refused the turn.
        """
        if self._cancelled:
            raise TurnCancelled("The turn was cancelled in Letta, which stopped it.")
        if self._error is not None:
            raise refusal_in_stream(self._error, sent=sent)
        if not self.ended or self._stop_reason is None or self._damaged:
            raise stream_lost()
        self.say_the_rest()
        return turn_answer({"messages": self._whole(), "stop_reason": self._stop_reason, "usage": self._usage})

    def say_the_rest(self) -> None:
        """Tell the listener what an agent of an older type said by calling a tool, once the turn has ended."""
        if not any(said.pieces for said in self._said.values()):
            for number, text in enumerate(sent_by_tool(self._whole())):
                if text:
                    self._listener.text(f"{SEND_MESSAGE}-{number}", text)

    def _whole(self) -> list[_Message]:
        return [message.whole() if isinstance(message, _Said | _Call) else message for message in self._messages]

    def _assistant(self, message: _Message) -> None:
        key = _text(message.get("id")) or _text(message.get("step_id"))
        said = self._said.get(key)
        if said is None:
            said = self._said[key] = _Said()
            self._messages.append(said)
        if text := content_text(message.get("content")):
            said.pieces.append(text)
            self._listener.text(key, text)

    def _tool_call(self, message: _Message) -> None:
        listed = message.get("tool_calls")  # a piece has it as an object, a whole message as a list
        for piece in listed if isinstance(listed, list) and listed else [message.get("tool_call") or listed]:
            if isinstance(piece, dict):
                self._piece_of_call(piece)

    def _piece_of_call(self, piece: _Message) -> None:
        call_id, name, arguments = (piece.get(part) for part in ("tool_call_id", "name", "arguments"))
        call = self._calls.get(call_id) if isinstance(call_id, str) else self._latest_call
        if call is None:
            call = _Call(call_id if isinstance(call_id, str) else f"call-{len(self._calls)}")
            self._calls[call.call_id] = call
            self._messages.append(call)
        self._latest_call = call
        if isinstance(name, str) and name and not call.name:
            call.name = name
            self._report(name, call.call_id, ToolState.CALLED)
        if isinstance(arguments, str):
            call.arguments.append(arguments)

    def _tool_return(self, message: _Message) -> None:
        self._messages.append(message)
        for given, call_id, succeeded in tool_returns(message):
            call = self._calls.get(call_id) if isinstance(call_id, str) else None
            name = call.name if call else given
            if isinstance(name, str) and name:
                self._report(name, str(call_id), ToolState.RETURNED if succeeded else ToolState.FAILED)

    def _report(self, name: str, call_id: str, state: ToolState) -> None:
        """Report a state of a call once. Speaking to the user is no tool of interest."""
        if name != SEND_MESSAGE and (call_id, state) not in self._reported:
            self._reported.add((call_id, state))
            self._listener.tool(name, state)

    def _stop(self, message: _Message) -> None:
        self._stop_reason = message.get("stop_reason")
        self._cancelled |= self._stop_reason == _CANCELLED

    def _count(self, message: _Message) -> None:
        self._usage = message

    _KINDS: Final[Mapping[str, Callable[[StreamedTurn, _Message], None]]] = {
        "assistant_message": _assistant,
        "tool_call_message": _tool_call,
        "tool_return_message": _tool_return,
        "stop_reason": _stop,
        "usage_statistics": _count,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def stream_lost() -> LettaError:
    """The error for a stream without its end."""
    return OutcomeUnknown(
        "Letta's stream broke off before the turn was complete, so Letta may or may not store the turn.",
        cause="connection_lost",
    )

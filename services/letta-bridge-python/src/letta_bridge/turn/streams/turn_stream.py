"""One turn's part of a task stream: turns what the agent writes into events, each said once.

An attempt is one try to answer. What it has published stays the beginning of the reply: the texts of its sentences
add up to the reply's text. Where that cannot hold (the turn is sent again, another service answers), a ``restart`` says
that the attempt is void, and another one begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from letta_bridge.letta.port import ToolState
from letta_bridge.request_queue.port import UNCONDITIONAL, TaskEvents
from letta_bridge.settings import StreamingSettings
from letta_bridge.turn.catch_up import NotesRemoved
from letta_bridge.turn.streams.events import EventWriter, Past
from shared_utils.contracts.messages import Task
from shared_utils.llm.streamed_text import StreamedText
from shared_utils.speech.speech_text import SpeechText
from shared_utils.speech.splitter import SentenceSplitter

_IDLE_SECONDS: Final = 0.3
"""After so long without text, a sentence whose end mark was seen is published without the character after it."""
_END_MARKS: Final = tuple("。！？!?.…～~♪”’」』）)")


class TurnStream:
    """The events of one hand-out; the listener of its turn in Letta.

    Args:
        task: the task; its id and user name the stream.
        receipt: of the hand-out.
        settings: how to cut.
        past: what earlier hand-outs published.
        deltas: also publish text as it comes.
        changed: called when there are new events.
    """

    def __init__(
        self,
        task: Task,
        receipt: str,
        settings: StreamingSettings,
        past: Past,
        *,
        deltas: bool,
        changed: Callable[[TurnStream], None],
    ) -> None:
        self.events = TaskEvents(receipt, task.user_id, task.task_id)
        self.past = past
        self.run_id: str | None = None
        """Letta's, of the attempt in progress."""
        self._write = EventWriter(task)
        self._settings = settings
        self._deltas = deltas
        self._changed = changed
        self._on_run: Callable[[], None] | None = None
        self.stopped = False
        """Nothing more is written while the turn runs: it has ended, was interrupted, or another bridge has it."""
        self._attempt = past.attempt
        # After an error, somebody who begins to answer says so again.
        self._source: str | None = past.source if past.last is None else None
        self._agent_id: str | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._text_at = 0.0
        self._reset()
        for _, text in past.sentences:
            self._parts.append(text)
            self._speech.of(text)
        self._delta_text = past.delta_text

    def _reset(self) -> None:
        settings = self._settings
        self._parts: list[str] = []
        self._delta_text = ""
        self._tail = ""
        """What the splitter holds."""
        self._message: str | None = None
        self._earlier = ""
        """What the agent's messages before this one said."""
        self._separator = ""
        self._hygiene = StreamedText()
        self._notes = NotesRemoved()
        self._splitter = self._new_splitter(first=True)
        self._speech: SpeechText = SpeechText(settings.markdown)

    def _new_splitter(self, *, first: bool) -> SentenceSplitter:
        settings = self._settings
        return SentenceSplitter(
            first_characters=settings.first_piece_characters if first else None,
            max_characters=settings.max_piece_characters,
        )

    @property
    def reply_text(self) -> str:
        """What the sentences of the present attempt add up to."""
        return "".join(self._parts)

    @property
    def published(self) -> Past:
        """What the task's stream is known to hold: after an interrupt, nothing else is published."""
        return self.past.followed_by(self.events.events[: max(0, self.events.stored)])

    @property
    def spoken(self) -> bool:
        """Whether the present attempt has said anything."""
        return bool(self._parts or self._delta_text)

    def begin(self, source: str, agent_id: str | None = None, *, reason: str = "sent_again") -> None:
        """A new attempt: what an earlier one has said is void."""
        self._cancel_idle()
        is_other = source != self._source
        self._source, self._agent_id, self.run_id = source, agent_id, None
        if self.spoken:
            self._attempt += 1
            self._add(self._write.restart(self._attempt, reason, source, agent_id))
        elif is_other or not self._attempt:
            self._attempt += 1
            self._add(self._write.started(self._attempt, source, agent_id))
        self._reset()

    def stop(self) -> None:
        """Publish nothing more."""
        self.stopped = True
        self._cancel_idle()

    def on_run(self, call: Callable[[], None] | None) -> None:
        """Call this once the run is known; at once if it is."""
        self._on_run = call
        if call is not None and self.run_id is not None:
            call()

    def run(self, run_id: str) -> None:
        """See :class:`letta_bridge.letta.port.TurnListener`."""
        self.run_id = run_id
        if self._on_run is not None:
            self._on_run()

    def text(self, message: str, text: str) -> None:
        """A piece of an assistant message."""
        if message != self._message:
            self._close_message()
            self._message = message
        self._clean(lambda: self._hygiene.add(text), is_end=False)

    def tool(self, name: str, state: ToolState) -> None:
        """The agent calls a tool: what it has said before is complete."""
        self._close_message()
        self._publish(self._splitter.flush())
        self._add(self._write.tool(self._attempt, name, state))

    def finish(self) -> str:
        """The agent's answer is complete; returns what the attempt has said."""
        self._close_message()
        self._cancel_idle()
        pieces = self._splitter.end()
        self._publish(pieces, last=True)
        return self.reply_text

    def complete(self, text: str, source: str, agent_id: str | None = None, *, reason: str) -> None:
        """The whole reply is known: say what is left of it, after what an earlier hand-out said."""
        said = self.reply_text
        is_continued = text.startswith(said) and text.startswith(self._delta_text)
        if not self._attempt or source != self._source or not is_continued:
            self.begin(source, agent_id, reason=reason)
            said = ""
        self._cancel_idle()
        self._message, self._tail = None, ""
        rest = text[len(said) :]
        splitter = self._new_splitter(first=not said)
        self._delta(text[len(self._delta_text) :])
        self._publish(splitter.add(rest))
        self._publish(splitter.end(), last=True)

    def end(self, reply: bytes, text: str | None, source: str, agent_id: str | None, reason: str) -> None:
        """The turn has this outcome; ``text`` is None where it is an error."""
        if text is not None and not self.stopped and (text != self.reply_text or not self._attempt):
            self.complete(text, source, agent_id, reason=reason)
        self.stop()  # what is not written yet goes with the settlement, whose outcome the last event says
        self._attempt = max(1, self._attempt)
        write = self._write.error if text is None else self._write.end
        self._add(write(self._attempt, reply), always=True)

    def end_interrupted(self, reply: bytes, heard: dict[str, object] | None, attempt: int) -> None:
        """The turn was broken off in this attempt, the last that was published.

        The queue leaves out ``interrupted`` where it has said so before.
        """
        self.stop()
        self._attempt = max(1, attempt)
        # Only these: what was not published before the interrupt is not published after it.
        last = [self._write.interrupted(self._attempt, heard), self._write.end(self._attempt, reply)]
        self.events = TaskEvents(
            self.events.receipt, self.events.user_id, self.events.task_id, last, stored=UNCONDITIONAL
        )

    def _close_message(self) -> None:
        if self._message is None:
            return
        self._clean(self._hygiene.end, is_end=True)
        self._message = None
        self._earlier = self.reply_text + self._tail
        self._separator = "\n" if self._earlier else ""
        self._hygiene, self._notes = StreamedText(), NotesRemoved()

    def _clean(self, take: Callable[[], str], *, is_end: bool) -> None:
        """Say what is left of the model's text once thoughts, tool calls and repeated notes are removed."""
        voids = self._hygiene.voids
        said = take()
        if self._hygiene.voids != voids:
            self._void()
        said = self._notes.add(said) + (self._notes.end() if is_end else "")
        if said:
            self._feed(self._separator + said)
            self._separator = ""

    def _void(self) -> None:
        """What this message has said turned out to be thoughts: begin again with the messages before it."""
        hygiene, message, earlier = self._hygiene, self._message, self._earlier
        self.begin(self._source or "letta", self._agent_id, reason="thoughts")
        self._hygiene, self._message, self._earlier = hygiene, message, earlier
        if earlier:
            self._feed(earlier)
            self._separator = "\n"

    def _feed(self, text: str) -> None:
        self._delta(text)
        self._tail += text
        self._publish(self._splitter.add(text))
        loop = asyncio.get_running_loop()
        self._text_at = loop.time()
        if self._idle is None:
            self._idle = loop.call_later(_IDLE_SECONDS, self._look_idle)

    def _look_idle(self) -> None:
        self._idle = None
        loop = asyncio.get_running_loop()
        if (left := self._text_at + _IDLE_SECONDS - loop.time()) > 0:
            self._idle = loop.call_later(left, self._look_idle)
        elif self._tail.rstrip().endswith(_END_MARKS):
            self._publish(self._splitter.flush())

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _delta(self, text: str) -> None:
        if self._deltas and text:
            self._delta_text += text
            self._add(self._write.delta(self._attempt, text))

    def _publish(self, pieces: list[str], *, last: bool = False) -> None:
        for place, piece in enumerate(pieces, 1):
            first = not self._parts
            self._parts.append(piece)
            self._tail = self._tail[len(piece) :]
            speech = self._speech.of(piece)
            is_last = last and place == len(pieces)
            self._add(self._write.sentence(self._attempt, piece, speech, first=first, last=is_last))

    def _add(self, event: bytes, *, always: bool = False) -> None:
        if self.stopped and not always:
            return
        self.events.events.append(event)
        if not always:  # the last events go with the settlement
            self._changed(self)

"""How far one listener is in a stream: each event once, in order, and in the end the whole reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from letta_bridge_client.events import (
    ERROR,
    LAST_EVENTS,
    End,
    Event,
    Restart,
    Sentence,
    Started,
    event_of,
    sequence_of,
)
from letta_bridge_client.reply import Reply

_EVENTS_LOST: Final = "events_lost"


class Progress:
    """Numbers the events of a stream and knows what they said.

    Args:
        after: the last event that the caller has; -1 for none. Up to there, events are noted and not returned.

    Attributes:
        next_seq: the number of the next event.
        attempt: the present one; 0 before the first.
    """

    def __init__(self, after: int = -1) -> None:
        self.next_seq = 0
        self.attempt = 0
        self._after = after
        self._said: list[str] = []
        self._is_whole = after < 0
        """Whether everything that the present attempt said is known."""

    def skip_to(self, seq: int) -> None:
        """Leave out the events before ``seq``, which belong to an earlier task or try."""
        self.next_seq = max(self.next_seq, seq)

    def lacks(self, seq: int) -> bool:
        """Whether events before this one are missing."""
        return seq > self.next_seq

    def take(self, content: Mapping[str, Any]) -> list[Event]:
        """What an event adds; nothing for one that was there before, and for the last one."""
        seq = sequence_of(content)
        if seq is None or seq < self.next_seq:
            return []
        if seq > self.next_seq:
            self._is_whole = False  # Redis keeps a limited number of events
        elif seq == 0:
            self._is_whole = True
        self.next_seq = seq + 1
        event = event_of(content)
        if event is None or isinstance(event, End):
            return []
        self._note(event)
        return [event] if seq > self._after else []

    def end(self, reply: Reply) -> list[Event]:
        """The last events of a stream: what was not said of the reply, if anything, and the end."""
        events = [*self._unsaid(reply)]
        self.next_seq += len(events)
        return [*events, End(self.next_seq, max(1, self.attempt), reply)]

    def _note(self, event: Event) -> None:
        self.attempt = max(self.attempt, event.attempt)
        if isinstance(event, Started | Restart):
            self._said, self._is_whole = [], True
        elif isinstance(event, Sentence):
            self._said.append(event.text)

    def _unsaid(self, reply: Reply) -> Iterable[Event]:
        """For a reply that was not streamed, or only in part: by a bridge of an earlier release, or lost by Redis."""
        said = "".join(self._said)
        if not self._is_whole or reply.interrupted or reply.text == said:
            return
        seq = self.next_seq
        if not reply.text.startswith(said):
            self.attempt, said = self.attempt + 1, ""
            yield Restart(seq, self.attempt, _EVENTS_LOST, reply.source, reply.agent_id)
            seq += 1
        rest = reply.text[len(said) :]
        yield Sentence(seq, max(1, self.attempt), rest, rest.strip(), first=not said, last=True)


def beginning(events: Sequence[Mapping[str, Any]], *, is_new: bool) -> int:
    """Where the part of a kept stream begins that concerns a call.

    A task that is tried again after a retryable error, and a task whose id an earlier one had, go on in one stream.

    Args:
        events: all that is kept.
        is_new: the task is pushed now, so that nothing that has ended concerns it.
    """
    ended = [place for place, content in enumerate(events) if content.get("type") in LAST_EVENTS]
    if not is_new and ended and ended[-1] == len(events) - 1:
        ended.pop()
    if not ended:
        return 0
    seq = sequence_of(events[ended[-1]])
    return 0 if seq is None else seq + 1


def error_of(content: Mapping[str, Any]) -> Reply | None:
    """The error reply in an event that ends a stream; None for any other event."""
    if content.get("type") != ERROR:
        return None
    return Reply.of({**content, "error": True, "source": "letta_bridge"})

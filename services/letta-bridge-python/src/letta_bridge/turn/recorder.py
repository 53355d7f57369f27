"""What is told of a turn on its way: the port behind which metrics and traces stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from letta_bridge.request_queue.port import Exchange, Refusal, Settlement, Turn


class Recorder(Protocol):
    """Hears of everything that happens to turns. Called on the hot path: a method is quick, and never raises."""

    def exchanged(self, settlements: Sequence[Settlement], exchange: Exchange, seconds: float) -> None:
        """Redis took these settlements and gave new turns, in one round trip of so many seconds."""
        ...

    def arrived(self, turns: Sequence[Turn]) -> None:
        """Redis gave these turns, which an idle bridge was waiting for."""
        ...

    def ended(self, turn: Turn, settlement: Settlement, seconds: float) -> None:
        """A turn has its outcome, so many seconds after it was handed out; Redis does not know of it yet."""
        ...

    def refused(self, settlement: Settlement, refusal: Refusal) -> None:
        """Redis refused a settlement for good."""
        ...

    def lease_lost(self) -> None:
        """Another bridge has one of this bridge's turns."""
        ...

    def retried(self, cause: str) -> None:
        """A turn is going to be sent to Letta once more; ``cause`` is one of few words."""
        ...

    def delivered(self, seconds: float) -> None:
        """What a turn spent on Letta is over, successful or not: agent look-up, tries and the waits between them."""
        ...


class _Silent:
    """Nobody listens."""

    def exchanged(self, settlements: Sequence[Settlement], exchange: Exchange, seconds: float) -> None:
        pass

    def arrived(self, turns: Sequence[Turn]) -> None:
        pass

    def ended(self, turn: Turn, settlement: Settlement, seconds: float) -> None:
        pass

    def refused(self, settlement: Settlement, refusal: Refusal) -> None:
        pass

    def lease_lost(self) -> None:
        pass

    def retried(self, cause: str) -> None:
        pass

    def delivered(self, seconds: float) -> None:
        pass


SILENT: Final[Recorder] = _Silent()


class Recorders:
    """Several that all hear the same."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def exchanged(self, settlements: Sequence[Settlement], exchange: Exchange, seconds: float) -> None:
        """See :class:`Recorder`."""
        for recorder in self._recorders:
            recorder.exchanged(settlements, exchange, seconds)

    def arrived(self, turns: Sequence[Turn]) -> None:
        """See :class:`Recorder`."""
        for recorder in self._recorders:
            recorder.arrived(turns)

    def ended(self, turn: Turn, settlement: Settlement, seconds: float) -> None:
        """See :class:`Recorder`."""
        for recorder in self._recorders:
            recorder.ended(turn, settlement, seconds)

    def refused(self, settlement: Settlement, refusal: Refusal) -> None:
        """See :class:`Recorder`."""
        for recorder in self._recorders:
            recorder.refused(settlement, refusal)

    def lease_lost(self) -> None:
        """See :class:`Recorder`."""
        for recorder in self._recorders:
            recorder.lease_lost()

    def retried(self, cause: str) -> None:
        """See :class:`Recorder`."""
        for recorder in self._recorders:
            recorder.retried(cause)

    def delivered(self, seconds: float) -> None:
        """See :class:`Recorder`."""
        for recorder in self._recorders:
            recorder.delivered(seconds)

"""The observer port of a turn, which metrics and traces implement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from letta_bridge.request_queue.interrupts import InterruptOutcome
from letta_bridge.request_queue.port import FetchResult, Refusal, Settlement, Turn
from shared_utils.observability import logs

_log = logs.get("letta_bridge.recorder")


class Recorder:
    """Observes what happens to turns; every hook does nothing by default.

    Called on the hot path: a hook is quick, and never raises.
    """

    def settled_and_fetched(self, settlements: Sequence[Settlement], fetched: FetchResult, seconds: float) -> None:
        """Redis accepted these settlements and handed out new turns, in one round trip of this duration."""

    def arrived(self, turns: Sequence[Turn]) -> None:
        """Redis handed out these turns to a waiting bridge."""

    def ended(self, turn: Turn, settlement: Settlement, seconds: float) -> None:
        """A turn has its outcome, this many seconds after its hand-out; it is not settled yet."""

    def refused(self, settlement: Settlement, refusal: Refusal) -> None:
        """Redis finally refused a settlement."""

    def lease_lost(self) -> None:
        """Another bridge has taken over one of this bridge's turns."""

    def writes_lost(self) -> None:
        """Redis has lost writes it had acknowledged to this bridge, whether or not the bridge holds turns."""

    def out_of_resources(self) -> None:
        """This host lacked the memory, file descriptor or thread for a turn."""

    def retried(self, cause: str) -> None:
        """A turn is about to be sent to Letta again; ``cause`` is one of a few words."""

    def delivered(self, seconds: float) -> None:
        """A turn's delivery to Letta has ended, successful or not: agent look-up, tries and the waits between them."""

    def events_published(self, number: int) -> None:
        """So many events of streamed replies were published."""

    def interrupt_handled(self, outcome: InterruptOutcome) -> None:
        """An interrupt was taken from the control list."""


NO_RECORDER: Final = Recorder()


class Recorders(Recorder):
    """Combines recorders: each hook calls the recorders that implement it. A defect of one never reaches a turn."""

    def __init__(self, *recorders: Recorder) -> None:
        for name, default in vars(Recorder).items():
            if not name.startswith("_"):
                hooks = [getattr(r, name) for r in recorders if getattr(type(r), name) is not default]
                setattr(self, name, _each(hooks))


def _each(hooks: Sequence[Callable[..., None]]) -> Callable[..., None]:
    reported: set[Callable[..., None]] = set()

    def call_each(*arguments: Any) -> None:
        for hook in hooks:
            try:
                hook(*arguments)
            except Exception:  # noqa: BLE001  # whatever it is: it must not reach the turn
                if hook not in reported:
                    reported.add(hook)
                    _log.exception("telemetry_failed", hook=hook.__qualname__)

    return call_each

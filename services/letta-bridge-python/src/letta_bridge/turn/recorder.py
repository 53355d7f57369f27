"""What can be observed of a turn on its way: the port behind which metrics and traces stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from letta_bridge.request_queue.port import FetchResult, Refusal, Settlement, Turn


class Recorder:
    """Observes what happens to turns; every hook does nothing by default.

    Called on the hot path: a hook is quick, and never raises.
    """

    def settled_and_fetched(self, settlements: Sequence[Settlement], fetched: FetchResult, seconds: float) -> None:
        """Redis took these settlements and gave new turns, in one round trip of so many seconds."""

    def arrived(self, turns: Sequence[Turn]) -> None:
        """Redis gave these turns, which an idle bridge was waiting for."""

    def ended(self, turn: Turn, settlement: Settlement, seconds: float) -> None:
        """A turn has its outcome, so many seconds after it was handed out; Redis does not know of it yet."""

    def refused(self, settlement: Settlement, refusal: Refusal) -> None:
        """Redis refused a settlement for good."""

    def lease_lost(self) -> None:
        """Another bridge has one of this bridge's turns."""

    def writes_lost(self) -> None:
        """Redis has lost writes it had acknowledged to this bridge, whether or not the bridge holds turns."""

    def retried(self, cause: str) -> None:
        """A turn is going to be sent to Letta once more; ``cause`` is one of few words."""

    def delivered(self, seconds: float) -> None:
        """What a turn spent on Letta is over, successful or not: agent look-up, tries and the waits between them."""


NO_RECORDER: Final = Recorder()


class Recorders(Recorder):
    """Several recorders as one: each hook calls those of them that have it."""

    def __init__(self, *recorders: Recorder) -> None:
        for name, default in vars(Recorder).items():
            if not name.startswith("_"):
                hooks = [getattr(r, name) for r in recorders if getattr(type(r), name) is not default]
                setattr(self, name, _each(hooks))


def _each(hooks: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def call_each(*arguments: Any) -> None:
        for hook in hooks:
            hook(*arguments)

    return call_each

"""Keeps a defect of the bridge from changing the outcome of a turn that is answered."""

from __future__ import annotations

from types import TracebackType

from letta_bridge.errors import LeaseLost, OutOfResources
from letta_bridge.request_queue.port import Turn
from shared_utils.exhaustion import is_exhaustion
from shared_utils.observability import logs

_log = logs.get("letta_bridge.message_processor")


class DefectsLogged:
    """A block in which a defect is logged and goes no further; a lost lease and a lack of resources do.

    Args:
        turn: that the block works on.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, LeaseLost | OutOfResources) or is_exhaustion(error):
            return False
        _log.error("turn_failed", receipt=self._turn.receipt, exc_info=error)
        return True

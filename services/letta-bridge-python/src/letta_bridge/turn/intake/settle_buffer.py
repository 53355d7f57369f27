"""Buffers outcomes until Redis has settled them, in batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from letta_bridge.request_queue.port import FetchResult, Refusal, Settlement
from letta_bridge.turn.recorder import Recorder
from shared_utils.observability import logs

_log = logs.get("letta_bridge.intake")

_MAX_BATCH: Final = 64
"""Maximum settlements of one round trip, so that users do not all wait for one large call."""


class SettleBuffer:
    """Settlements that Redis has not confirmed. Filled by ended turns, emptied by the passes and at shutdown.

    State: the settlements, oldest first, without the batch in progress.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._settlements: list[Settlement] = []

    def __len__(self) -> int:
        return len(self._settlements)

    def add(self, settlement: Settlement) -> None:
        """Add the outcome of a turn."""
        self._settlements.append(settlement)

    def next_batch(self, capacity: int) -> list[Settlement]:
        """Take out the oldest, at most half of the bridge's capacity, so that other turns run meanwhile."""
        size = max(1, min(_MAX_BATCH, capacity // 2))
        batch, self._settlements = self._settlements[:size], self._settlements[size:]
        return batch

    def put_back(self, batch: list[Settlement]) -> None:
        """Return a batch, or the rest of one, to the front."""
        self._settlements = batch + self._settlements

    def confirm(self, batch: Sequence[Settlement], fetched: FetchResult) -> list[str]:
        """Returns the receipts that are settled or finally refused; the rest of the batch is put back."""
        over: list[str] = []
        unknown: list[Settlement] = []
        for settlement, counted in zip(batch, fetched.settled, strict=True):
            refusal = fetched.refused.get(settlement.receipt)
            request = fetched.interrupted.get(settlement.receipt)
            if refusal is not None:
                self._refused(settlement, refusal)
            if refusal is not None or counted:
                over.append(settlement.receipt)
            elif request is not None and settlement.when_interrupted is not None:
                unknown.append(settlement.when_interrupted(request))
            else:
                unknown.append(settlement)
        self.put_back(unknown)
        return over

    def drop(self, lost: Collection[str]) -> list[str]:
        """Drop the outcomes of turns that another bridge has; returns their receipts."""
        dropped = [settlement for settlement in self._settlements if settlement.receipt in lost]
        self._settlements = [settlement for settlement in self._settlements if settlement.receipt not in lost]
        for settlement in dropped:
            self._refused(settlement, Refusal.TAKEN_OVER)
        return [settlement.receipt for settlement in dropped]

    def _refused(self, settlement: Settlement, refusal: Refusal) -> None:
        self._recorder.refused(settlement, refusal)
        log = _log.info if refusal is Refusal.REPEATED else _log.warning
        log(
            "settlement_refused",
            receipt=settlement.receipt,
            outcome=settlement.outcome,
            reason=refusal,
            task_id=settlement.task_id,
            user_id=settlement.user_id,
        )

"""Outcomes keep their order on the way to Redis, and none is lost with a round trip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from letta_bridge.request_queue.port import FetchResult, Outcome, Refusal, Settlement
from letta_bridge.turn.intake.settle_buffer import SettleBuffer
from letta_bridge.turn.recorder import NO_RECORDER


@pytest.fixture
def filled() -> Callable[..., Any]:
    """``filled(n)``: a buffer with the outcomes of the receipts ``0`` to ``n - 1``."""

    def fill(count: int) -> SettleBuffer:
        buffer = SettleBuffer(NO_RECORDER)
        for number in range(count):
            buffer.add(Settlement(str(number), Outcome.LETTA))
        return buffer

    return fill


def receipts(settlements: list[Settlement]) -> list[str]:
    return [settlement.receipt for settlement in settlements]


@pytest.mark.parametrize(("capacity", "size"), [(1, 1), (2, 1), (9, 4), (128, 64), (1_000, 64)])
def test_a_batch_is_half_of_the_capacity_up_to_a_bound(filled: Callable[..., Any], capacity: int, size: int) -> None:
    buffer = filled(100)
    assert receipts(buffer.next_batch(capacity)) == [str(number) for number in range(size)]
    assert len(buffer) == 100 - size


def test_batch_that_is_put_back_is_next_again(filled: Callable[..., Any]) -> None:
    buffer = filled(4)
    buffer.put_back(buffer.next_batch(4))
    assert receipts(buffer.next_batch(8)) == ["0", "1", "2", "3"]


def test_unconfirmed_settlements_return_to_the_front_of_the_buffer(filled: Callable[..., Any]) -> None:
    buffer = filled(5)
    batch = buffer.next_batch(8)
    buffer.add(Settlement("5", Outcome.LETTA))
    fetched = FetchResult(settled=[True, False, False, False], refused={"2": Refusal.REPEATED})
    assert buffer.confirm(batch, fetched) == ["0", "2"]
    assert receipts(buffer.next_batch(100)) == ["1", "3", "4", "5"]


def test_outcomes_of_turns_that_another_bridge_has_are_dropped(filled: Callable[..., Any]) -> None:
    buffer = filled(4)
    assert buffer.drop({"1", "3", "unknown"}) == ["1", "3"]
    assert receipts(buffer.next_batch(100)) == ["0", "2"]

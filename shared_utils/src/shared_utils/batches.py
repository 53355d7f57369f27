"""Splits work into batches, limited by number and by bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def batches_of(
    items: Sequence[_Item], most: int, most_bytes: float = float("inf"), size: Callable[[_Item], int] = lambda _: 0
) -> Iterator[Sequence[_Item]]:
    """The items in order, in batches of at most ``most``; a batch ends after the item that reaches ``most_bytes``."""
    start = total = 0
    for index, item in enumerate(items):
        total += size(item)
        if index + 1 - start == most or total >= most_bytes or index + 1 == len(items):
            yield items[start : index + 1]
            start, total = index + 1, 0


class PageSize:
    """The size of the next page of a source without known item sizes: pages grow while the items are small.

    Args:
        most: items of a page at most.
        most_bytes: bytes that a page should have; one of unusually large items has more.
    """

    def __init__(self, most: int, most_bytes: int = 1_048_576) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.items = min(most, 8)
        """For the next page."""

    def learn(self, items: int, size: int) -> None:
        """The last page had so many items of so many bytes in all."""
        if items:
            self.items = max(1, min(self._most, 4 * self.items, self._most_bytes * items // (size + 1)))

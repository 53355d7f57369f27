"""Work cut into pieces."""

from __future__ import annotations

from typing import Any

import pytest

from shared_utils.batches import PageSize, batches_of


@pytest.mark.parametrize(
    ("sizes", "most", "most_bytes", "expected"),
    [
        ([], 3, 10, []),
        ([1, 1, 1, 1], 3, 10, [[1, 1, 1], [1]]),
        ([9, 9, 1], 3, 10, [[9, 9], [1]]),
        ([50, 50], 3, 10, [[50], [50]]),
        ([1, 1, 8, 1], 9, 10, [[1, 1, 8], [1]]),
    ],
)
def test_batches_are_bounded_by_number_and_bytes(
    sizes: list[Any], most: int, most_bytes: int, expected: list[Any]
) -> None:
    assert list(batches_of(sizes, most, most_bytes, lambda size: size)) == expected


def test_pages_grow_while_items_are_small_and_shrink_where_they_are_large() -> None:
    page = PageSize(500, 1000)
    for _ in range(5):
        page.learn(page.items, page.items)
    assert page.items == 500
    page.learn(500, 5000)
    assert page.items == 99
    page.learn(99, 999_999)
    assert page.items == 1
    page.learn(0, 0)
    assert page.items == 1

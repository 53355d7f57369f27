"""Which rows a step reads, and how many of them make a batch."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from letta_server.transfer import transfer
from letta_server.transfer.catalog import Column, Table
from letta_server.transfer.plan import Step
from letta_server.transfer.transfer import _Batch, _stream

NAMES = ("a", "b", "x", "y")
TABLE = Table("t", tuple(Column(name, "text", name in "xy") for name in NAMES), ("a", "b"), ())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("step", "after", "rows"),
    [
        (Step(TABLE), None, ["1 1 - -", "1 2 p -", "2 1 - q", "2 2 p q"]),
        (Step(TABLE), ("1", "2"), ["2 1 - q", "2 2 p q"]),
        (Step(TABLE, later=("x",)), ("2", "1"), ["2 2 - q"]),
        (Step(TABLE, pointers=("x", "y")), None, ["p - 1 2", "- q 2 1", "p q 2 2"]),
        (Step(TABLE, pointers=("x", "y")), ("2", "1"), ["p q 2 2"]),
    ],
)
def test_a_step_reads_its_rows_in_the_order_of_the_key(
    postgres_url: str, step: Step, after: tuple[str, ...] | None, rows: list[str]
) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE t (a text, b text, x text, y text)")
        connection.execute(
            "INSERT INTO t VALUES (2, 2, 'p', 'q'), (1, 2, 'p', NULL), (2, 1, NULL, 'q'), (1, 1, NULL, NULL)"
        )
        with _stream(connection, step, after) as stream:
            assert [" ".join(value or "-" for value in row) for row in stream] == rows


@pytest.mark.parametrize(
    ("limit", "size", "sizes"), [(2, 1000, [2, 2, 1]), (9, 6, [2, 2, 1]), (9, 1, [1] * 5), (5, 99, [5])]
)
def test_a_batch_ends_after_so_many_rows_or_characters(
    monkeypatch: pytest.MonkeyPatch, limit: int, size: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(transfer, "_BATCH_SIZE", size)
    rows = iter([(str(number), "ab", None) for number in range(5)])
    found: list[list[Any]] = []
    row: Any = next(rows, None)
    while row is not None:
        batch = _Batch(row, rows, limit)
        found.append([each[0] for each in batch])
        assert (batch.count, batch.last[0]) == (len(found[-1]), found[-1][-1])
        row = batch.following
    assert [len(names) for names in found] == sizes
    assert [name for names in found for name in names] == list("01234")

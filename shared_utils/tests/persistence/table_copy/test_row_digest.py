"""The checksum of a table: independent of row order, chunking, and how a product prints an embedding."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.persistence.table_copy.digest import RowDigest, changed_rows, embedding_form, embedding_in

ROWS = [b"1\tone\n", b"2\t\\N\n", b"3\twith \\t tab and \\n newline\n", "4\t第四\n".encode()]


def digest(chunks: list[Any], forms: dict[int, Callable[..., Any]] | None = None) -> tuple[int, str]:
    found = RowDigest(forms)
    for chunk in chunks:
        found.feed(chunk)
    return found.rows, found.hexdigest


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert digest(ROWS) == digest(shuffled)
    assert digest(ROWS)[0] == 4


@given(st.lists(st.integers(0, len(b"".join(ROWS))), max_size=8))
def test_chunks_need_not_end_with_a_row(places: list[Any]) -> None:
    text = b"".join(ROWS)
    bounds = [0, *sorted(places), len(text)]
    chunks = [memoryview(text)[start:end] for start, end in pairwise(bounds)]
    assert digest(chunks) == digest(ROWS)


@pytest.mark.parametrize(
    "other",
    [ROWS[:-1], [*ROWS, ROWS[0]], [b"1\tonE\n", *ROWS[1:]], [b"1\t\\N\n", b"2\tone\n", *ROWS[2:]]],
    ids=["fewer", "twice", "changed", "swapped"],
)
def test_other_content_has_another_digest(other: list[bytes]) -> None:
    assert digest(other) != digest(ROWS)


def test_an_embedding_is_compared_as_32_bit_floats() -> None:
    forms = {1: embedding_form}
    one = digest([b"a\t[0.1,-2,3e-05]\n"], forms)
    assert digest([b"a\t{0.100000001,-2.0,0.00003}\n"], forms) == one
    assert digest([b"a\t[0.1,-2,3e-04]\n"], forms) != one
    assert digest([b"a\t[]\n"], forms) == digest([b"a\t{}\n"], forms)


def test_embeddings_are_converted_between_kinds_of_tables() -> None:
    rows = b"a\t[1,2.5]\tx\nb\t[3,4]\ty\n"
    arrays = changed_rows(rows, 1, lambda value: embedding_in(value, "float8"))
    assert arrays == b"a\t{1,2.5}\tx\nb\t{3,4}\ty\n"
    assert changed_rows(arrays, 1, lambda value: embedding_in(value, "vector")) == rows

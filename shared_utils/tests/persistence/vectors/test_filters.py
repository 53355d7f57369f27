"""Filters: what is refused, by name, and that memory and SQL agree on what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_utils.persistence.vectors import FilterRefused, Scope
from shared_utils.persistence.vectors.filter_sql import Conditions, filled
from shared_utils.persistence.vectors.filters import parsed

KEYS = st.sampled_from(["a", "b", "deep.key", "喵"])
SCALARS = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 3.0, 1e20]) | st.text("ab喵Z'%", max_size=2)
)
ORDERED = SCALARS.filter(lambda value: value is not None and not isinstance(value, bool))
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), SCALARS),
    st.tuples(st.sampled_from(["$lt", "$lte", "$gt", "$gte"]), ORDERED),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=4)),
    st.tuples(st.just("$between"), st.tuples(ORDERED, ORDERED)),
    st.tuples(st.just("$exists"), st.booleans()),
)
COMPARISONS = st.dictionaries(
    KEYS, SCALARS | st.lists(OPERATIONS, min_size=1, max_size=2).map(dict), min_size=1, max_size=2
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=5,
)
METADATA = st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=2), max_size=4)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"a": {"$like": "x"}}, r"'\$like' of a is not an operator; use one of \$eq"),
        ({"a": {"b": 1}}, "'b' of a is not an operator"),
        ({"$nor": []}, r"\$nor is not allowed here; before a key, use \$and, \$or, \$not"),
        ({"$eq": 1}, r"\$eq is not allowed here"),
        ({"$and": {}}, r"\$and takes a list of filters"),
        ({"$or": []}, r"\$or takes a list of filters"),
        ({"$and": [{}]}, "{} is not a filter"),
        ({"$not": [1]}, "is not a filter"),
        ({"a": {}}, "has no condition for a"),
        ({"a": [1]}, r"\$eq of a takes a text, a finite number"),
        ({"a": {"$gt": True}}, r"\$gt of a takes a number or a text, not True"),
        ({"a": {"$lt": None}}, r"\$lt of a takes a number or a text"),
        ({"a": {"$lt": float("nan")}}, r"\$lt of a takes a text, a finite number"),
        ({"a": {"$in": "xyz"}}, r"\$in of a takes a list"),
        ({"a": {"$in": [[1]]}}, r"\$in of a takes a text"),
        ({"a": {"$in": [0] * 1001}}, "up to 1000 values"),
        ({"a": {"$between": [1]}}, r"\$between of a takes \[least, most\]"),
        ({"a": {"$exists": 1}}, r"\$exists of a takes true or false"),
        ({1: 2}, "1 is not a key"),
        ({"": 2}, "'' is not a key"),
        ({f"k{n}": n for n in range(201)}, "more than 200 conditions"),
        ([1], "is not a filter"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_meaningless_filter_is_refused(where: Any, message: str) -> None:
    with pytest.raises(FilterRefused, match=message):
        parsed(where)


def test_a_filter_is_not_nested_without_end() -> None:
    where: dict[str, Any] = {"a": 1}
    for _ in range(11):
        where = {"$not": where}
    with pytest.raises(FilterRefused, match="nested deeper than 10 levels"):
        parsed(where)


def test_no_text_of_a_filter_stands_in_the_statement() -> None:
    conditions = Conditions(Scope.agent("it's"), parsed({"k'; --": {"$in": ["v'; --", 1, None]}}))
    assert "; --" not in conditions.text
    assert "it's" not in conditions.text


@pytest.mark.integration
@pytest.mark.parametrize("engine", ["postgresql", "opengauss-5.0"], indirect=True)
@pytest.mark.asyncio(loop_scope="module")
async def test_memory_and_sql_agree(vector_database: Any) -> None:
    """Many filters on many metadata in one statement."""
    cases = []

    @settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(FILTERS, METADATA)
    def collect(where: Any, metadata: Any) -> None:
        cases.append((where, metadata))

    collect()
    for where, metadata in cases:
        condition = parsed(where)
        conditions = Conditions(Scope.everything(), condition)
        statement = "SELECT {conditions} AS holds FROM (SELECT %(metadata)s::jsonb AS metadata) AS passage"
        [row] = await vector_database.fetch(
            filled(statement, {"conditions": conditions.text}),
            conditions.params | {"metadata": json.dumps(metadata)},
        )
        assert condition is not None
        assert row["holds"] is condition.holds(metadata), (where, metadata)

"""Which pydantic models are tables, and what their statements say."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel

from shared_utils.persistence.errors import ValueRefused
from shared_utils.persistence.repositories.table import Table


class Colour(StrEnum):
    RED = "red"


class Thing(BaseModel):
    id: str
    number: int = 0
    size: float | None = None
    there: bool = True
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    tags: list[str] = []
    more: dict[str, Any] | None = None
    owner: UUID | None = None
    at: AwareDatetime | None = None
    naive: datetime | None = None


THINGS = Table(Thing, "things", order=("number",))


def test_columns_are_typed_by_the_model() -> None:
    assert THINGS.columns == {
        "id": "text",
        "number": "bigint",
        "size": "double precision",
        "there": "boolean",
        "kind": "text",
        "colour": "text",
        "tags": "jsonb",
        "more": "jsonb",
        "owner": "uuid",
        "at": "timestamptz",
        "naive": "timestamptz",
    }


def test_values_are_parameters_and_names_are_quoted() -> None:
    table: Table[Any] = Table(
        type("Row", (BaseModel,), {"__annotations__": {"id": str, "more": dict}}), 'a "b"', order=()
    )
    assert table.insert == 'INSERT INTO {schema}."a ""b""" ("id", "more") VALUES (%(id)s::text, %(more)s::jsonb)'
    assert table.insert_all == (
        'INSERT INTO {schema}."a ""b""" ("id", "more") SELECT "id", "more"::jsonb FROM '
        '(SELECT unnest(%(id)s::text[]) AS "id", unnest(%(more)s::text[]) AS "more") AS given'
    )


def test_a_record_becomes_a_row() -> None:
    row = THINGS.row(Thing(id="1", tags=["é"], colour=Colour.RED))
    assert row["tags"] == '["é"]'
    assert row["more"] is None
    assert type(row["colour"]) is str


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueRefused, match="naive of things has no time zone"):
        THINGS.row(Thing(id="1", naive=datetime(2026, 1, 1)))  # noqa: DTZ001  # that is the point


@pytest.mark.parametrize("annotation", [bytes, int | str, set[str], Literal[1, 2]])
def test_a_type_no_column_holds_is_refused(annotation: Any) -> None:
    model = type("Wrong", (BaseModel,), {"__annotations__": {"id": str, "x": annotation}})
    with pytest.raises(TypeError, match=r"Wrong\.x has a type that no column can store"):
        Table(model, "wrong", order=())


def test_an_order_by_no_column_is_refused() -> None:
    with pytest.raises(ValueError, match="things has no column 'colour_'"):
        Table(Thing, "things", order=("colour_",))

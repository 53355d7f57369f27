from __future__ import annotations

import pytest

from letta_server.transfer.catalog import Column, ForeignKey, Table
from letta_server.transfer.errors import MoveRefused
from letta_server.transfer.plan import steps


def table(name: str, **pointers: str) -> Table:
    """`table("a", b="NOT NULL")` points to b; "NULL" where the pointer may be NULL."""
    columns = [Column(f"{other}_id", "text", kind == "NULL") for other, kind in pointers.items()]
    keys = [ForeignKey((f"{other}_id",), other) for other in pointers]
    return Table(name, (Column("id", "text", False), *columns), ("id",), tuple(keys))


def plan(*tables: Table) -> list[str]:
    return [step.name for step in steps({one.name: one for one in tables})]


def test_referenced_tables_come_first() -> None:
    assert plan(table("a", b="NOT NULL"), table("b", c="NULL"), table("c")) == ["c", "b", "a"]


def test_a_circle_is_broken_where_a_pointer_may_wait() -> None:
    block, history = table("block", history="NULL"), table("history", block="NOT NULL")
    made = steps({"block": block, "history": history, "agents": table("agents", block="NULL")})
    assert [step.name for step in made] == ["block", "agents", "history", "block.history_id"]
    assert made[0].later == made[3].pointers == ("history_id",)
    assert not any(step.later for step in made[1:])


def test_a_table_that_points_to_itself_is_a_circle_too() -> None:
    assert plan(table("run", run="NULL")) == ["run", "run.run_id"]


def test_of_a_long_circle_one_pointer_waits() -> None:
    tables = table("a", b="NOT NULL"), table("b", c="NULL"), table("c", a="NOT NULL")
    assert plan(*tables) == ["b", "a", "c", "b.c_id"]


def test_two_circles_through_one_table() -> None:
    tables = table("a", b="NULL", c="NULL"), table("b", a="NOT NULL"), table("c", a="NOT NULL")
    assert plan(*tables) == ["a", "b", "c", "a.b_id.c_id"]


def test_a_circle_without_a_way_in_is_refused() -> None:
    with pytest.raises(MoveRefused, match="a, b reference each other"):
        plan(table("a", b="NOT NULL"), table("b", a="NOT NULL"))


def test_plan_ignores_references_to_unknown_tables() -> None:
    assert plan(table("a", elsewhere="NOT NULL")) == ["a"]
